"""A prompt with two answers to it as one sequence, which a pairwise reward model reads.

    prompt, first answer with its end token | what opens an answer | second answer with its end token

So it needs a chat template and no further tokens. A template that opens no answers separates the two by the end token.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rayalign.data.chat import cut_to_fit, encode_example, encode_turn, prompt_ids
from rayalign.data.collate import EncodedRow
from rayalign.data.preferences import base_id
from rayalign.types import Candidate, Example, Prompt, with_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)
TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TwoAnswers:
    """Token ids of a prompt and of two answers to it."""

    prompt: TokenIds
    first: TokenIds
    second: TokenIds
    opening: TokenIds
    """what the template puts between an answer's end token and where another answer begins"""

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
    encoder = PairEncoder(tokenizer, context)
    cut = dropped = total = 0
    for group, pair in enumerate(pairs):
        total += 1
        chosen, rejected = pair.candidates
        tokens, lost_turns = encoder.encode(pair.prompt, chosen, rejected)
        if tokens is None:
            dropped += 1
            continue
        cut += lost_turns
        for order in (tokens, tokens.swapped()):
            yield replace(order.row(), group=group, prompt=base_id(pair.prompt), preference=pair.preference)
    if cut or dropped:
        log.warning("%d pairs: %d lost early turns, %d left out, to fit %d tokens", total, cut, dropped, context)


class PairEncoder:
    """One tokenizer's way to write a prompt with two answers in at most `context` tokens (None: in any number)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: int | None) -> None:
        self._tokenizer = tokenizer
        self._context = context
        self._opening = encode_turn(tokenizer, ())

    def fits(self, pair: TwoAnswers) -> bool:
        """Whether a pair is short enough."""
        return self._context is None or len(pair) <= self._context

    def join(self, prompt: TokenIds, first: TokenIds, second: TokenIds) -> TwoAnswers | None:
        """What is in tokens already; None where it is too long."""
        pair = TwoAnswers(prompt, first, second, self._opening)
        return pair if self.fits(pair) else None

    def answer(self, start: TokenIds, prompt: Prompt, answer: Candidate) -> TokenIds:
        """An answer behind its prompt, which has the tokens `start`, with its end token."""
        dialogue, _ = encode_example(self._tokenizer, with_turns(prompt, answer.turns), answer.text)
        return tuple(dialogue[len(start) :])

    def encode(self, prompt: Prompt, first: Candidate, second: Candidate) -> tuple[TwoAnswers | None, bool]:
        """The pair in tokens, and whether its dialogue lost its oldest turns; None where it is too long even so."""
        whole = self._whole(prompt, first, second)
        if self._context is None or self.fits(whole):
            return whole, False
        room = self._context - (len(whole) - len(whole.prompt))
        fitting = cut_to_fit(self._tokenizer, prompt, room)
        if fitting is None:
            return None, False
        return self._whole(fitting, first, second), True

    def _whole(self, prompt: Prompt, first: Candidate, second: Candidate) -> TwoAnswers:
        start = prompt_ids(self._tokenizer, prompt)
        answers = [self.answer(start, prompt, answer) for answer in (first, second)]
        return TwoAnswers(start, answers[0], answers[1], self._opening)
