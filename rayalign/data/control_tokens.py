"""Control tokens that a text spells out, such as `<|im_end|>` in a scraped dialogue: they stay text.

A mark goes behind the first character of each before the template is applied, and what stands on either side of a mark
is tokenised by itself. So the ids spell the same text, and no id of a control token comes from a text.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "\ufdd1"
"""a code point that Unicode keeps free of characters"""


def marked(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The text with a mark inside each control token that it spells."""
    pattern = _pattern(tokenizer)
    text = text.replace(_MARK, "")
    if pattern is None:
        return text
    return pattern.sub(lambda match: match[0][0] + _MARK + match[0][1:], text)


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, after_end: bool = False) -> list[int]:
    """Token ids of a text that may hold marks, without tokens that the tokenizer adds by itself.

    Args:
        after_end: tokenise its beginning as behind an end token, as what follows a mark always is.
    """
    first, *others = text.split(_MARK)
    ids = _ids_after_end(tokenizer, first) if after_end else tokenizer.encode(first, add_special_tokens=False)
    for part in others:
        ids += _ids_after_end(tokenizer, part)
    return ids


def _ids_after_end(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """As behind an end token, which no piece spans; a text alone is read by SentencePiece as if a space came first."""
    end = tokenizer.eos_token
    if end is None:
        return tokenizer.encode(text, add_special_tokens=False)
    return tokenizer.encode(end + text, add_special_tokens=False)[1:]


@lru_cache(maxsize=16)
def _pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    """Of the control tokens; a tokenizer that gets further ones is a copy, see `with_reward_tokens`.

    A token of one character cannot be broken. Tokens that are not special, such as `</think>`, are what models write.
    """
    added = tokenizer.added_tokens_decoder.values()
    names = {token.content for token in added if token.special and len(token.content) > 1}
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if names else None
