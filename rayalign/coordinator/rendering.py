"""The policy's tokenizer as one stage uses it: prompts to requests, answers to text."""

from __future__ import annotations

from collections.abc import Sequence

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


class Renderer:
    """Token ids in and out for one model, context and sampling."""

    def __init__(self, model: str, context: int, sampling: SamplingConfig) -> None:
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

    def requests(self, group_id: str, prompt: Prompt, seeds: Sequence[int]) -> list[Request]:
        """One request for each seed, with the key `GROUP/INDEX`."""
        token_ids = self.prompt_ids(prompt)
        return [
            Request(f"{group_id}/{index}", token_ids, seed, self._sampling, self._stop_ids)
            for index, seed in enumerate(seeds)
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
