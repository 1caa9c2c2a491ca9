"""What stages read: the tokenizers of their models and the rows of their data, proven before Ray starts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rayalign.algorithms.base import load
from rayalign.config import (
    AnnotateStage,
    DataConfig,
    EvaluateStage,
    GenerateStage,
    LoadedJob,
    PretrainStage,
    Stage,
    TrainStage,
)
from rayalign.data import readers
from rayalign.data.chat import encode_prompt, load_tokenizer, train_tokenizer
from rayalign.errors import InputError
from rayalign.pipeline.hashing import REFERENCE, stage_hashes, stage_states
from rayalign.pipeline.plan import data_use, scored_over_http
from rayalign.types import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class Inputs:
    """Tokenizers and fitting prompts of a job's stages, each made once, whether for `check` or for the stage."""

    def __init__(self, loaded: LoadedJob) -> None:
        self._loaded = loaded
        self._job = loaded.job
        self._states, self._hashes = stage_states(loaded.job), stage_hashes(loaded.job)
        self._rows: dict[DataConfig, list[Example]] = {}
        self._corpora: dict[str, list[Example]] = {}
        self._tokenizers: dict[str, PreTrainedTokenizerBase] = {}
        self._fitting: dict[tuple[int, DataConfig, int], list[Example]] = {}

    def check(self) -> None:
        """Prove that every stage still to run has its tokenizers, that its rows parse to the end, and its prompts fit.

        Raises:
            InputError: the first that does not, with the place in the job.
        """
        for name, stage in self._job.stages.items():
            if self._states[name] == "finished" or isinstance(stage, AnnotateStage):
                continue
            for field, model in _tokenizers(name, stage):
                with self._told(f"stages.{name}.{field}"):
                    self.tokenizer(model)
            with self._told(f"stages.{name}.data"):
                self._check_rows(name, stage)

    def prompts(self, name: str) -> list[Example]:
        """The prompts of a stage as its data give them, each once."""
        data = self._data(name)
        if data not in self._rows:
            self._rows[data] = readers.load_examples(data, seed=self._job.seed, use="prompts")
        return self._rows[data]

    def fitting(self, name: str, model: str) -> list[Example]:
        """The prompts of a stage that leave room for an answer in the tokens of one of its models.

        Raises:
            InputError: one does not, and the data are not told to skip such rows.
        """
        stage, tokenizer = self._job.stages[name], self.tokenizer(model)
        assert isinstance(stage, TrainStage | GenerateStage | EvaluateStage)
        reserve = stage.sampling.max_tokens
        key = id(tokenizer), stage.data, reserve  # of one tokenizer for all models that a job makes from one start
        if key not in self._fitting:
            self._fitting[key] = self._fit(name, stage.data, tokenizer, reserve)
        return self._fitting[key]

    def corpus(self, name: str) -> list[Example]:
        """What a pretrain stage reads; handed over once, since it may be large."""
        return self._corpora.pop(name, None) or self._read_corpus(name)

    def tokenizer(self, model: str) -> PreTrainedTokenizerBase:
        """The tokenizer of a model as the job names it, whose stage need not have run."""
        if model not in self._tokenizers:
            self._tokenizers[model] = self._make_tokenizer(model)
        return self._tokenizers[model]

    def cached(self, name: str) -> Path:
        """Where runs of the same content keep what a pretrain stage makes."""
        return Path(self._job.output).resolve() / ".cache" / "pretrain" / self._hashes[name]

    def _make_tokenizer(self, model: str) -> PreTrainedTokenizerBase:
        if not model.startswith(REFERENCE):
            return load_tokenizer(model)
        name = model.removeprefix(REFERENCE)
        stage = self._job.stages[name]
        if self._states[name] == "finished":
            return load_tokenizer(str(Path(self._job.output) / self._job.name / "stages" / name / "model"))
        if isinstance(stage, TrainStage):
            return self.tokenizer(stage.model)
        assert isinstance(stage, PretrainStage), "`check` lets no other stage stand for a model"
        if self.cached(name).exists():
            return load_tokenizer(str(self.cached(name)))
        if stage.data.format == "paddock":
            from rayalign.data.paddock.tokenizer import build_tokenizer

            return build_tokenizer()
        corpus = self._corpora[name] = self._read_corpus(name)
        texts = (t for e in corpus for t in [*(m.content for m in e.prompt.messages), e.candidates[0].text])
        return train_tokenizer(texts, stage.vocabulary)

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            raise InputError(f"{self._loaded.origin(key)}: {key}: {error}") from error

    def _check_rows(self, name: str, stage: Stage) -> None:
        use = data_use(stage, load(stage.algorithm) if isinstance(stage, TrainStage) else None)
        if isinstance(stage, PretrainStage) and (name in self._corpora or self.cached(name).exists()):
            return
        if use == "prompts":
            for model in _models(stage):
                self.fitting(name, model)
        elif use is not None:
            readers.check(self._data(name), use=use, whole=True)

    def _read_corpus(self, name: str) -> list[Example]:
        return readers.load_examples(self._data(name), seed=self._job.seed, use="corpus")

    def _data(self, name: str) -> DataConfig:
        stage = self._job.stages[name]
        assert not isinstance(stage, AnnotateStage)
        return stage.data

    def _fit(self, name: str, data: DataConfig, tokenizer: PreTrainedTokenizerBase, reserve: int) -> list[Example]:
        examples, context = self.prompts(name), self._job.rollout.context
        fits = [encode_prompt(tokenizer, e.prompt, context=context, reserve=reserve) is not None for e in examples]
        kept = [e for e, fit in zip(examples, fits, strict=True) if fit]
        lost = len(examples) - len(kept)
        if lost and (data.too_long == "refuse" or not kept):
            first = examples[fits.index(False)].prompt
            raise InputError(
                f"{lost} of {len(examples)} prompts leave no room for {reserve} new tokens in a context of {context} "
                f"(the first: {first.id}, {first.messages[-1].content[:60]!r}); raise rollout.context, lower "
                "sampling.max_tokens, or leave such rows out with data.too_long=skip"
            )
        if lost:
            logger.warning("%s: %d of %d prompts are too long and left out", name, lost, len(examples))
        return kept


def _models(stage: Stage) -> list[str]:
    """The models that a stage reads its rows for."""
    if isinstance(stage, EvaluateStage):
        return list(stage.models.values())
    return [] if isinstance(stage, AnnotateStage) else [stage.model]


def _tokenizers(name: str, stage: Stage) -> Iterator[tuple[str, str]]:
    """Key and model of each tokenizer that a stage needs."""
    if isinstance(stage, EvaluateStage):
        yield from (("models", model) for model in stage.models.values())
        others = (("reward", stage.reward), ("perplexity", stage.perplexity))
        yield from ((field, model) for field, model in others if model)
    elif isinstance(stage, PretrainStage):
        yield "data", f"{REFERENCE}{name}"
    elif not isinstance(stage, AnnotateStage):
        yield "model", stage.model
    if isinstance(stage, TrainStage) and stage.reward and not scored_over_http(stage):
        yield "reward", stage.reward
