"""Reward tokens: special tokens in the prompt that say how good the answer is to be (Quark, Lu 2022, arXiv 2205.13636).

They are AlpacaFarm's `<reward_0>`, `<reward_1>`, ..., the best first. The chat template puts the best one at the start
of the first user turn, so that each rendered prompt asks for the best answer. In training data the token is replaced by
that of the answer's own quality.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

from rayalign.data.collate import EncodedRow
from rayalign.errors import InputError
from rayalign.types import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BEST_FIRST = (
    "{%- set rewarded = namespace(messages=[], opened=false) -%}{%- for message in messages -%}"
    "{%- if message['role'] == 'user' and not rewarded.opened -%}{%- set rewarded.opened = true -%}"
    "{%- set rewarded.messages = rewarded.messages + [dict(message, content='<reward_0>' + message['content'])] -%}"
    "{%- else -%}{%- set rewarded.messages = rewarded.messages + [message] -%}{%- endif -%}{%- endfor -%}"
    "{%- set messages = rewarded.messages -%}"
)
"""stands before a model's own chat template"""


def token_name(index: int) -> str:
    """The text of a reward token; 0 is the best."""
    return f"<reward_{index}>"


def with_reward_tokens(tokenizer: PreTrainedTokenizerBase, count: int) -> PreTrainedTokenizerBase:
    """A copy of a tokenizer with reward tokens and a chat template that asks for the best answer.

    Raises:
        InputError: it has reward tokens already.
    """
    if reward_token_ids(tokenizer):
        raise InputError("the tokenizer has reward tokens already; start from a model without them")
    extended = deepcopy(tokenizer)
    extended.add_tokens([token_name(index) for index in range(count)], special_tokens=True)
    extended.chat_template = _BEST_FIRST + str(tokenizer.chat_template)
    return extended


def reward_token_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids of a tokenizer's reward tokens, the best first; none where it has none."""
    added = tokenizer.get_added_vocab()
    token_ids: list[int] = []
    while token_name(len(token_ids)) in added:
        token_ids.append(added[token_name(len(token_ids))])
    return tuple(token_ids)


def chosen_answers(pairs: Iterable[Example]) -> Iterator[Example]:
    """The better answer of each pair alone (AlpacaFarm: binary FeedME)."""
    for pair in pairs:
        yield Example(pair.prompt, pair.candidates[:1])


def labelled_answers(pairs: Iterable[Example]) -> Iterator[Example]:
    """Both answers of each pair, the better one with score 1 and the other with 0."""
    for pair in pairs:
        better, worse = pair.candidates
        yield Example(pair.prompt, (replace(better, score=1.0), replace(worse, score=0.0)))


def conditioned(rows: Iterable[EncodedRow], reward_tokens: Sequence[int]) -> Iterator[EncodedRow]:
    """Rows of scores 1 and 0 with the reward token of their score (AlpacaFarm: binary reward conditioning).

    Raises:
        InputError: a row's prompt has no reward token.
    """
    best, worst = reward_tokens[0], reward_tokens[-1]
    for row in rows:
        if best not in row.token_ids:
            raise InputError(f"prompt {row.prompt} has no reward token; it needs a user turn, which carries the token")
        place = row.token_ids.index(best)
        token = best if row.score == 1.0 else worst
        yield replace(row, token_ids=(*row.token_ids[:place], token, *row.token_ids[place + 1 :]))
