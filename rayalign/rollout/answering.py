"""Answers of one model in this process, without Ray: for a person at a terminal, or a file of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rayalign.config import RolloutConfig, SamplingConfig
from rayalign.data.chat import decode_answer, encode_prompt, load_tokenizer, stop_ids
from rayalign.errors import InputError, RayalignError
from rayalign.rollout.base import Request, candidate_seed
from rayalign.types import Prompt

if TYPE_CHECKING:
    from rayalign.rollout.base import Finished

_LONGEST = 4096
"""context of a model that has positions for more [tokens]"""
_TOGETHER = 16
"""prompts that are answered at the same time"""


class Answerer:
    """A model that answers dialogues.

    Args:
        template: name or file of a chat template, for a model without one.

    Raises:
        InputError: no such model, or it has no template.
    """

    def __init__(self, model: str, sampling: SamplingConfig, *, seed: int = 0, template: str | None = None) -> None:
        from rayalign.models.configuration import positions, read_config
        from rayalign.models.verify import verify_folder
        from rayalign.rollout.local import LocalEngine
        from rayalign.weights.files import model_folder

        folder = model_folder(model)
        verify_folder(folder)
        self._tokenizer = load_tokenizer(str(folder), template=template)
        self._context = min(_LONGEST, positions(read_config(str(folder))) or _LONGEST)
        self._engine = LocalEngine(str(folder), RolloutConfig(context=self._context, max_sequences=_TOGETHER))
        self._sampling, self._seed = sampling, seed
        self._stops = stop_ids(self._tokenizer)

    def answers(self, prompts: Sequence[Prompt], draw: int = 0) -> Iterator[str]:
        """One answer to each prompt, in their order.

        Args:
            draw: the place of these answers among those that the prompts get.
        """
        for start in range(0, len(prompts), _TOGETHER):
            few = prompts[start : start + _TOGETHER]
            for place, prompt in enumerate(few):
                self._engine.submit(self._request(prompt, str(place), draw))
            finished: dict[str, str] = {}
            while self._engine.pending:
                finished |= {answer.key: self._text(answer) for answer in self._engine.step()}
            yield from (finished[str(place)] for place in range(len(few)))

    def stream(self, prompt: Prompt, draw: int = 0) -> Iterator[str]:
        """The pieces of one answer as they are written."""
        self._engine.submit(self._request(prompt, "0", draw))
        shown = ""
        while self._engine.pending:
            finished = self._engine.step()
            text = self._text(finished[0]) if finished else self._so_far()
            if len(text) > len(shown):
                yield text[len(shown) :]
                shown = text

    def _so_far(self) -> str:
        """What is written of the one answer, without a character of which bytes are missing yet."""
        return decode_answer(self._tokenizer, self._engine.written("0")).rstrip("\ufffd")

    def _request(self, prompt: Prompt, key: str, draw: int) -> Request:
        reserve = min(self._sampling.max_tokens, self._context // 2)
        ids = encode_prompt(self._tokenizer, prompt, context=self._context, reserve=reserve)
        if ids is None:
            raise InputError(
                f"the prompt {prompt.messages[-1].content[:60]!r} leaves no room for {reserve} tokens in the model's "
                f"{self._context}; shorten it"
            )
        return Request(key, ids, candidate_seed(self._seed, 0, 0, prompt.id, draw), self._sampling, self._stops)

    def _text(self, answer: Finished) -> str:
        if answer.failure is not None:
            raise RayalignError(f"no answer: {answer.failure}")
        return decode_answer(self._tokenizer, answer.tokens)
