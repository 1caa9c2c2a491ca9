"""Texts of finished candidates, decoded where they were written: the coordinator's time is worth more."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rayalign.data.chat import decode_answer, load_tokenizer
from rayalign.errors import InputError
from rayalign.rollout.base import Finished

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class Decoder:
    """The tokenizer of the model that an engine writes for."""

    def __init__(self) -> None:
        self._model: str | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None

    def use(self, model: str | None) -> None:
        """Decode with the tokenizer of this model from now on; where it is not at hand, not at all."""
        if model == self._model:
            return
        self._tokenizer = _loaded(model) if model is not None else None
        self._model = model

    def with_texts(self, candidates: Sequence[Finished]) -> list[Finished]:
        """The candidates, each that was written with its text."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            return list(candidates)
        return [each if each.failure else _with_text(each, tokenizer) for each in candidates]


def _loaded(model: str) -> PreTrainedTokenizerBase | None:
    try:
        return load_tokenizer(model, dialogue=False)
    except InputError as error:
        logger.warning("the coordinator decodes: %s", error)
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
