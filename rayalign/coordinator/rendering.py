"""The policy's tokenizer as one stage uses it: prompts to requests, answers to text."""

from __future__ import annotations

from collections.abc import Sequence

from rayalign.config import SamplingConfig
from rayalign.data.chat import cut_to_fit, decode_answer, encode_example, encode_prompt, load_tokenizer, stop_ids
from rayalign.rollout.base import Request
from rayalign.types import Prompt, Segment, Trajectory


class Renderer:
    """Token ids in and out for one model, context and sampling."""

    def __init__(self, model: str, context: int, sampling: SamplingConfig) -> None:
        self.tokenizer = load_tokenizer(model)
        self._context = context
        self._sampling = sampling
        self._stop_ids = stop_ids(self.tokenizer)

    @property
    def pad_id(self) -> int:
        """What fills a row behind its last token."""
        return int(self.tokenizer.pad_token_id)

    def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt in tokens; an over-long dialogue loses its oldest turns."""
        reserve = self._sampling.max_tokens
        token_ids = encode_prompt(self.tokenizer, prompt, context=self._context, reserve=reserve)
        assert token_ids is not None, "a prompt that leaves no room for an answer comes to no stage"
        return token_ids

    def requests(self, group_id: str, prompt: Prompt, seeds: Sequence[int]) -> list[Request]:
        """One request for each seed, with the key `GROUP/INDEX`."""
        token_ids = self.prompt_ids(prompt)
        return [
            Request(f"{group_id}/{index}", token_ids, seed, self._sampling, self._stop_ids)
            for index, seed in enumerate(seeds)
        ]

    def decode(self, trajectory: Trajectory) -> str:
        """The text that the policy wrote."""
        mask = trajectory.policy_mask
        return decode_answer(self.tokenizer, [t for t, own in zip(trajectory.token_ids, mask, strict=True) if own])

    def dataset_trajectory(self, group_id: str, index: int, prompt: Prompt, text: str) -> Trajectory:
        """An answer that no policy wrote, after what fits of its prompt."""
        token_ids, mask = encode_example(self.tokenizer, prompt, text)
        if len(token_ids) > self._context:
            fitting = cut_to_fit(self.tokenizer, prompt, self._context - sum(mask)) or prompt
            token_ids, mask = encode_example(self.tokenizer, fitting, text)
        start = len(mask) - sum(mask)
        segments = (Segment(0, "template"), Segment(start, "dataset"))
        return Trajectory(group_id, index, token_ids, segments, (), "stop", text)
