"""The policy's tokenizer as one stage uses it: prompts to requests, answers to text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayalign.config import SamplingConfig
from rayalign.data.chat import (
    cut_to_fit,
    decode_answer,
    encode_example,
    encode_prompt,
    encode_turn,
    load_tokenizer,
    stop_ids,
)
from rayalign.rollout.base import Request
from rayalign.rollout.environment import Turns
from rayalign.types import Candidate, Prompt, Segment, Trajectory, with_turns


@dataclass(frozen=True, slots=True)
class Draw:
    """How one candidate is drawn."""

    sampling: SamplingConfig
    place: int
    """among the candidates that its prompt gets by this sampling"""


def draws(counts: Sequence[tuple[int, SamplingConfig]]) -> tuple[Draw, ...]:
    """The candidates of several sources one after another: so many by each sampling."""
    draws: list[Draw] = []
    for count, sampling in counts:
        draws += [Draw(sampling, place) for place in range(count)]
    return tuple(draws)


class Renderer:
    """Token ids in and out for one model, context and sampling."""

    def __init__(self, model: str, context: int, sampling: SamplingConfig) -> None:
        self.model = model
        """folder or hub name that the tokenizer is from"""
        self.tokenizer = load_tokenizer(model)
        self.context = context
        self.turns = Turns(lambda messages: encode_turn(self.tokenizer, messages))
        self._sampling = sampling
        self._stop_ids = stop_ids(self.tokenizer)

    @property
    def pad_id(self) -> int:
        """What fills a row behind its last token."""
        return int(self.tokenizer.pad_token_id)

    def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt in tokens; an over-long dialogue loses its oldest turns."""
        reserve = self._sampling.max_tokens
        token_ids = encode_prompt(self.tokenizer, prompt, context=self.context, reserve=reserve)
        assert token_ids is not None, "a prompt that leaves no room for an answer comes to no stage"
        return token_ids

    def requests(
        self, group_id: str, prompt: Prompt, seeds: Sequence[int], own_draws: Sequence[Draw] = ()
    ) -> list[Request]:
        """One request for each seed, with the key `GROUP/INDEX`; without `own_draws` by the renderer's sampling."""
        token_ids = self.prompt_ids(prompt)
        drawn = own_draws or draws([(len(seeds), self._sampling)])
        return [
            Request(f"{group_id}/{index}", token_ids, seed, draw.sampling, self._stop_ids, draw.place)
            for index, (seed, draw) in enumerate(zip(seeds, drawn, strict=True))
        ]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of one turn."""
        return decode_answer(self.tokenizer, tokens)

    def dataset_trajectory(self, group_id: str, index: int, prompt: Prompt, answer: Candidate) -> Trajectory:
        """An answer that no policy wrote now, after what fits of its prompt."""
        dialogue = with_turns(prompt, answer.turns)
        token_ids, mask = encode_example(self.tokenizer, dialogue, answer.text)
        if len(token_ids) > self.context:
            fitting = cut_to_fit(self.tokenizer, dialogue, self.context - sum(mask)) or dialogue
            token_ids, mask = encode_example(self.tokenizer, fitting, answer.text)
        start = len(mask) - sum(mask)
        segments = (Segment(0, "template"), Segment(start, "dataset"))
        return Trajectory(group_id, index, token_ids, segments, (), "stop", answer.text, answer.turns)
