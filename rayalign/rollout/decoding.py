"""Decodes candidates in the engine's process, since the coordinator has less time to spare."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rayalign.data.chat import decode_answer, load_tokenizer
from rayalign.errors import InputError
from rayalign.rollout.base import Finished

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class Decoder:
    """The tokenizer of the model that an engine writes for; several threads may call it."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._model: str | None = None
        self._needs_load = False
        """whether the tokenizer has still to be loaded"""
        self._tokenizer: PreTrainedTokenizerBase | None = None

    def expect(self, model: str | None) -> None:
        """Decode for this model from now on, once `load` has its tokenizer; until then not at all."""
        with self._changing:
            if model != self._model:
                self._model, self._tokenizer, self._needs_load = model, None, model is not None

    def load(self) -> None:
        """Load the expected tokenizer; where it is not at hand, the coordinator decodes."""
        with self._changing:
            if self._needs_load and self._model is not None:
                self._tokenizer, self._needs_load = _loaded(self._model), False

    def with_texts(self, candidates: Sequence[Finished]) -> list[Finished]:
        """The candidates; those that did not fail have their texts, if the tokenizer is loaded."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            return list(candidates)
        return [each if each.failure else _with_text(each, tokenizer) for each in candidates]


def _loaded(model: str) -> PreTrainedTokenizerBase | None:
    try:
        return load_tokenizer(model, dialogue=False)
    except InputError as error:
        logger.warning("the coordinator decodes this engine's answers: %s", error)
        return None


def _with_text(candidate: Finished, tokenizer: PreTrainedTokenizerBase) -> Finished:
    return Finished(
        candidate.key,
        candidate.tokens,
        candidate.logprobs,
        candidate.version_runs,
        candidate.reason,
        text=decode_answer(tokenizer, candidate.tokens),
    )
