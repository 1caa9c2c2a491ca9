"""The stage that makes a model from its preset and trains it on a corpus."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayalign.config import DataConfig, Job, LearnerConfig, PretrainStage, RoleConfig, TrainStage
from rayalign.config.references import STAGE
from rayalign.models.catalogue import ModelShape, shape_of
from rayalign.pipeline.host_checks import host_problems
from rayalign.pipeline.kind import LANGUAGE_MODEL, Output, Problem, Read, StageKind
from rayalign.pipeline.needs import RoleNeed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rayalign.data.collate import EncodedRow
    from rayalign.data.readers import Use
    from rayalign.pipeline.context import RunContext
    from rayalign.pipeline.inputs import Inputs
    from rayalign.types import Example

logger = logging.getLogger(__name__)


class PretrainKind(StageKind[PretrainStage]):
    """A language model from nothing; runs of the same content share it."""

    def reads(self) -> Sequence[Read]:
        return [Read("model", self.stage.model, (LANGUAGE_MODEL,), preset=True)]

    def outputs(self) -> dict[str, Output]:
        return {"": Output(LANGUAGE_MODEL, "model")}

    def batch(self) -> str:
        return f"{self.stage.learner.minibatch} samples a step, {self.stage.epochs} epochs"

    @property
    def data(self) -> DataConfig:
        return self.stage.data

    @property
    def data_use(self) -> Use:
        return "corpus"

    def roles(self, job: Job) -> Sequence[RoleNeed]:
        host = self.stage.roles.get("policy", RoleConfig())
        return [RoleNeed("policy", self.stage.model, host, self.stage.learner, trained=True)]

    def learners(self) -> dict[str, LearnerConfig]:
        return {"learner": self.stage.learner}

    def steps(self, rows: int | None) -> int | None:
        return None if rows is None else self.stage.epochs * max(1, rows // self.stage.learner.minibatch)

    def tokenizers(self, name: str) -> Sequence[tuple[str, str]]:
        return [("data", f"{STAGE}{name}")]

    def shape(self, job: Job, role: str) -> ModelShape | None:
        vocabulary = None if self.stage.data.embedded else self.stage.vocabulary
        return shape_of(self.stage.model, vocabulary)

    def settings(self) -> Mapping[str, Any]:
        """The content of a template that is a file; a named one is in the section."""
        named = self.stage.chat_template
        if named is None or not Path(named).is_file():
            return {}
        return {"chat_template": Path(named).read_text(encoding="utf-8")}

    def problems(self) -> Iterator[Problem]:
        from rayalign.data.templates import template_problem

        named = self.stage.chat_template
        problem = template_problem(named) if named else None
        if problem:
            yield "chat_template", problem
        elif named and self.stage.data.embedded:
            yield "chat_template", "the embedded world's tokenizer has a template of its own; leave this out"
        yield from host_problems(self.stage.roles, runs=["policy"], trained=["policy"])

    def make_tokenizer(self, inputs: Inputs, name: str, role: str) -> PreTrainedTokenizerBase:
        from rayalign.data.chat import load_tokenizer, train_tokenizer

        cached = inputs.cached(name)
        if cached.exists():
            return load_tokenizer(str(cached))
        if self.stage.data.embedded:
            from rayalign.data.paddock.tokenizer import build_tokenizer

            return build_tokenizer()
        texts = _texts(inputs.read_corpus(name))
        return train_tokenizer(iter(texts), self.stage.vocabulary, self.stage.chat_template)

    def run(self, context: RunContext, name: str) -> dict[str, Any]:
        """Make the preset's model and train it on the corpus, or take both from the cache."""
        folder = context.stage_folder(name)
        cached = context.inputs.cached(name)
        if cached.exists():
            shutil.copytree(cached, folder / "model", dirs_exist_ok=True)
            logger.info("%s: taken from %s", name, cached)
        else:
            _train(context, name, self.stage)
            _store(folder / "model", cached)
        return {}


def encode_corpus(
    tokenizer: Any, examples: Iterable[Example], context: int, *, rendered: bool = False
) -> Iterator[EncodedRow]:
    """Plain documents as rows that are trained on whole, dialogues as their template renders them.

    Args:
        rendered: the documents are the embedded world's own, which hold their control tokens already.
    """
    from rayalign.data.chat import dialogue_ids, text_ids
    from rayalign.data.collate import EncodedRow
    from rayalign.data.control_tokens import token_ids
    from rayalign.types import Message

    for number, example in enumerate(examples):
        text = example.candidates[0].text
        if example.prompt.messages:
            ids = dialogue_ids(tokenizer, (*example.prompt.messages, Message("assistant", text)))
        elif rendered:
            ids = token_ids(tokenizer, text)
        else:
            ids = text_ids(tokenizer, text)
        read = tuple(ids[:context])
        yield EncodedRow(read, (False, *[True] * (len(read) - 1)), number, prompt=example.prompt.id)


def _train(context: RunContext, name: str, stage: PretrainStage) -> None:
    from rayalign.data.chat import load_tokenizer
    from rayalign.models.load import make_preset
    from rayalign.pipeline.offline import fit

    start = context.stage_folder(name) / "start"
    tokenizer = context.inputs.tokenizer(f"{STAGE}{name}")
    make_preset(stage.model.removeprefix("preset:"), tokenizer, context.job.seed, start)
    corpus, length = context.inputs.corpus(name), context.job.rollout.context
    rows = encode_corpus(load_tokenizer(str(start)), corpus, length, rendered=stage.data.embedded)
    settings = stage.model_dump(include={"learner", "roles", "epochs"})
    fit(context, name, TrainStage(kind="train", algorithm={"name": "sft"}, model=str(start), keep=1, **settings), rows)


def _store(model: Path, cached: Path) -> None:
    """Copy a model into the cache, whole or not at all, for every later run."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent) as scratch:
        partial = shutil.copytree(model, Path(scratch) / "model")
        if not cached.exists():
            partial.rename(cached)


def _texts(corpus: Sequence[Example]) -> list[str]:
    texts = []
    for example in corpus:
        texts += [message.content for message in example.prompt.messages]
        texts.append(example.candidates[0].text)
    return texts


KIND = PretrainKind
