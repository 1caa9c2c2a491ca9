"""The contract of a stage kind, and how one is found: by its name, in the file of that name in this folder.

`check`, the plan, the hashes, the inputs and the runner ask a stage's kind and know no kind by name. A kind's file
imports Ray and all that trains inside functions, so that `rayalign check` stays fast.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rayalign.cluster.threads import IDLE_ENGINES, EngineThreads
from rayalign.config import (
    DataConfig,
    Job,
    LearnerConfig,
    Reference,
    RoleConfig,
    SamplingConfig,
    StageSection,
)
from rayalign.models.catalogue import ModelShape, shape_of
from rayalign.pipeline.needs import GENERATOR, AnnotatorRead, RoleNeed, host_alone
from rayalign.pipeline.stage_rows import stage_paths

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rayalign.data.readers import Use
    from rayalign.pipeline.context import RunContext
    from rayalign.pipeline.inputs import Inputs
    from rayalign.pipeline.train import TrainKind

LANGUAGE_MODEL = "a language model"
REWARD_MODEL = "a reward model"
PAIRWISE_MODEL = "a pairwise reward model"
CRITIC = "a critic"
ADAPTER = "an adapter"
AS_SOURCE = "what it was made from"
"""an output of the same kind as its source"""
CANDIDATES = "candidates"
SCORED = "scored candidates"
COMPARISONS = "comparisons"
PROMPTS = "prompts"
FIGURES = "figures"
MODELS = frozenset({LANGUAGE_MODEL, REWARD_MODEL, PAIRWISE_MODEL, CRITIC, ADAPTER})

Problem = tuple[str, str]
"""dotted key, and what is wrong with it"""
S = TypeVar("S", bound=StageSection)


@dataclass(frozen=True, slots=True)
class Read:
    """A model, or the output of an earlier stage, that a stage reads."""

    key: str
    """dotted, inside the stage"""
    value: str
    accepts: tuple[str, ...]
    """what may stand there: `a language model`, `candidates`, ..."""
    preset: bool = False
    """the value has to be a preset"""

    @property
    def is_model(self) -> bool:
        """True where a folder or a hub name may stand too."""
        return not MODELS.isdisjoint(self.accepts)


@dataclass(frozen=True, slots=True)
class Output:
    """Something that a stage makes."""

    what: str
    path: str
    """inside the stage's folder"""


class StageKind(ABC, Generic[S]):
    """What the pipeline asks of one stage. Keys are dotted and start inside the stage."""

    def __init__(self, stage: S) -> None:
        self.stage = stage

    @abstractmethod
    def reads(self) -> Sequence[Read]:
        """The models and the earlier outputs that the stage reads."""

    @abstractmethod
    def outputs(self) -> Mapping[str, Output]:
        """What the stage makes: the main output under the empty name, others under their role."""

    @abstractmethod
    def batch(self) -> str:
        """The arithmetic of its batches, for people."""

    @abstractmethod
    def run(self, context: RunContext, name: str) -> dict[str, Any]:
        """Run the stage; returns the figures for its done.json."""

    @property
    def data(self) -> DataConfig | None:
        """The section `data` of a kind that has one."""
        return None

    @property
    def data_use(self) -> Use | None:
        """What the stage reads the rows of its `data` as; None where it reads none."""
        return None

    def further_data(self) -> Sequence[tuple[str, DataConfig, Use]]:
        """Key, section and use of data that the stage reads beside its `data`."""
        return ()

    def data_reads(self) -> Sequence[Read]:
        """The earlier outputs that rows of its data come from."""
        if self.data is None:
            return ()
        return [Read(key, text, (PROMPTS, CANDIDATES, SCORED)) for key, text in stage_paths(self.data)]

    @property
    def sampling(self) -> SamplingConfig | None:
        """How the stage draws answers; None where it draws none."""
        return None

    @property
    def environment(self) -> str | None:
        """The environment that the stage's candidates are driven through; None: each is one answer."""
        return None

    @property
    def reward_tokens(self) -> int:
        """How many reward tokens its model must have."""
        return 0

    def compares(self) -> Mapping[str, str]:
        """The models whose figures are the stage's result, by their name in the tables."""
        return {}

    @property
    def training(self) -> TrainKind | None:
        """The stage as a training by an algorithm; None for a kind that has none."""
        return None

    def learners(self) -> Mapping[str, LearnerConfig]:
        """Key -> section of each learner that the stage names."""
        return {}

    def steps(self, rows: int | None) -> int | None:
        """Optimizer steps at most, of so many rows; None where there are none, or the rows decide and are unknown."""
        return None

    def answers(self, rows: int) -> int | None:
        """Answers that the engines write to so many prompts; None where that is not known before the run."""
        return None

    def rows_made(self, rows: int) -> int:
        """Rows for later stages, of so many that the stage reads."""
        return rows

    def alike(self) -> Sequence[Read]:
        """The models that must have the same parameters."""
        return ()

    def models_in_memory(self, job: Job) -> int:
        """Models that the stage holds at the same time, beside those of the engines."""
        return sum(need.models for need in self.roles(job) if need.role != GENERATOR)

    def annotators(self) -> Sequence[AnnotatorRead]:
        """The annotators of the service that the stage asks."""
        return ()

    def roles(self, job: Job) -> Sequence[RoleNeed]:
        """The roles that run on the cluster."""
        return ()

    def hosting(self, job: Job) -> dict[str, RoleConfig]:
        """How the roles other than the generator are hosted, as far as actors and devices are their own."""
        shares_devices = job.cluster.share_devices and self.uses_pool(job)
        hosting: dict[str, RoleConfig] = {}
        for need in self.roles(job):
            has_actors = need.role != GENERATOR and need.within is None
            if has_actors and not (shares_devices and need.host.gpus):
                hosting[need.role] = host_alone(job.cluster, need.host)
        return hosting

    def uses_pool(self, job: Job) -> bool:
        """Whether the stage needs engines."""
        return any(need.role == GENERATOR for need in self.roles(job))

    def engine_threads(self, job: Job) -> EngineThreads:
        """Threads of the engines that work beside an update, and beside scoring."""
        return IDLE_ENGINES

    def driver_memory(self, job: Job) -> int:
        """Main memory for what the stage does in the process of the run itself [bytes]."""
        return 0

    def settings(self) -> Mapping[str, Any]:
        """What its output depends on beside its own section, by dotted key."""
        return {}

    def problems(self) -> Iterator[Problem]:
        """What is wrong with the stage beside its references, models, data and annotators."""
        yield from ()

    def device_problems(self, job: Job) -> Iterator[Problem]:
        """What is wrong with how the stage uses the devices of a job."""
        yield from ()

    def prompt_models(self) -> Sequence[str]:
        """The models whose tokenizers encode the stage's prompts."""
        return ()

    def policy_readers(self) -> Mapping[str, str]:
        """Key -> model of each role that reads the policy's token ids, and so has to have its tokenizer."""
        return {}

    def tokenizers(self, name: str) -> Sequence[tuple[str, str]]:
        """Key and model of each tokenizer that the stage needs."""
        return ()

    def source(self, role: str) -> str | None:
        """The model that an output was made from, whose shape and tokenizer it has; None where it has its own."""
        return None

    def shape(self, job: Job, role: str) -> ModelShape | None:
        """The shape of a model that the stage makes; None where it is not known here."""
        source = self.source(role)
        return shape_in(job, source) if source else None

    def make_tokenizer(self, inputs: Inputs, name: str, role: str) -> PreTrainedTokenizerBase:
        """The tokenizer of a model that the stage has not made yet."""
        source = self.source(role)
        assert source is not None, "a kind whose output has no source overrides this"
        return inputs.tokenizer(source)


def kind_of(stage: StageSection) -> StageKind[Any]:
    """The kind of a stage, which answers for it."""
    kind: type[StageKind[Any]] = importlib.import_module(f"rayalign.pipeline.{stage.kind}").KIND
    return kind(stage)


def kinds_of(job: Job) -> dict[str, StageKind[Any]]:
    """The kind of each stage of a job."""
    return {name: kind_of(stage) for name, stage in job.stages.items()}


def trainings_of(job: Job) -> dict[str, TrainKind]:
    """The stages that train by an algorithm."""
    trainings = {name: kind.training for name, kind in kinds_of(job).items()}
    return {name: training for name, training in trainings.items() if training is not None}


def shape_in(job: Job, model: str) -> ModelShape | None:
    """The shape of a model as the job names it, through the stages that made it."""
    reference = Reference.parse(model)
    if reference is None:
        return shape_of(model)
    return kind_of(job.stages[reference.stage]).shape(job, reference.role)
