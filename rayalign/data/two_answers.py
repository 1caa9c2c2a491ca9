"""A prompt with two answers to it as one sequence, which a pairwise reward model reads.

    prompt, first answer with its end token | what opens an answer | second answer with its end token

So it needs a chat template and no further tokens. A template that opens no answers separates the two by the end token.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rayalign.data.chat import cut_to_fit, encode_example, encode_prompt, encode_turn
from rayalign.data.collate import EncodedRow
from rayalign.types import Candidate, Example, Prompt, with_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)
TokenIds = tuple[int, ...]
_ANY_LENGTH = 1 << 40


@dataclass(frozen=True, slots=True)
class TwoAnswers:
    """Token ids of a prompt and of two answers to it."""

    prompt: TokenIds
    first: TokenIds
    second: TokenIds
    opening: TokenIds
    """what stands between the answers"""

    def __len__(self) -> int:
        return len(self.prompt) + len(self.first) + len(self.opening) + len(self.second)

    def row(self) -> EncodedRow:
        """The sequence of group 0; its mask is True for the first answer's tokens, whose number is its length."""
        token_ids = (*self.prompt, *self.first, *self.opening, *self.second)
        behind = len(self.opening) + len(self.second)
        mask = (*[False] * len(self.prompt), *[True] * len(self.first), *[False] * behind)
        return EncodedRow(token_ids, mask, group=0)

    def swapped(self) -> TwoAnswers:
        """The same in the other order."""
        return replace(self, first=self.second, second=self.first)


def encode_comparisons(
    tokenizer: PreTrainedTokenizerBase, pairs: Iterable[Example], *, context: int
) -> Iterator[EncodedRow]:
    """Two rows for each pair, the first of them with the preferred answer first; a pair is a group.

    An over-long dialogue loses its oldest turns. A pair that still does not fit into `context` tokens is left out. Both
    are counted in a warning.
    """
    cut = dropped = total = 0
    for group, pair in enumerate(pairs):
        total += 1
        chosen, rejected = pair.candidates
        tokens, lost_turns = encode_two(tokenizer, pair.prompt, chosen, rejected, context=context)
        if tokens is None:
            dropped += 1
            continue
        cut += lost_turns
        for order in (tokens, tokens.swapped()):
            yield replace(order.row(), group=group, prompt=pair.prompt.id, preference=pair.preference)
    if cut or dropped:
        log.warning("%d pairs: %d lost early turns, %d left out, to fit %d tokens", total, cut, dropped, context)


def encode_two(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, first: Candidate, second: Candidate, *, context: int | None
) -> tuple[TwoAnswers | None, bool]:
    """The tokens, and whether the dialogue lost its oldest turns; None where they do not fit even so.

    Args:
        context: most tokens of the whole; None: any number.
    """
    whole = _encode(tokenizer, prompt, (first, second))
    if context is None or len(whole) <= context:
        return whole, False
    fitting = cut_to_fit(tokenizer, prompt, context - len(whole) + len(whole.prompt))
    if fitting is None:
        return None, False
    return _encode(tokenizer, fitting, (first, second)), True


def opening_ids(tokenizer: PreTrainedTokenizerBase) -> TokenIds:
    """What the template puts between an answer's end token and where another answer begins."""
    return encode_turn(tokenizer, ())


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, answers: Sequence[Candidate]) -> TwoAnswers:
    prompt_ids = encode_prompt(tokenizer, prompt, context=_ANY_LENGTH, reserve=0)
    assert prompt_ids is not None, "no prompt is longer than that"
    dialogues: list[TokenIds] = []
    for answer in answers:
        token_ids, _ = encode_example(tokenizer, with_turns(prompt, answer.turns), answer.text)
        dialogues.append(token_ids[len(prompt_ids) :])
    return TwoAnswers(prompt_ids, dialogues[0], dialogues[1], opening_ids(tokenizer))
