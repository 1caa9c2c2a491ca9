"""The stages of a job, and the job itself.

A model is named by a string: `preset:nano` (made from the seed), `stage:sft` (the output of an earlier stage), else a
folder in Hugging Face format or a hub name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from rayalign.config.annotators import JudgeConfig
from rayalign.config.sections import (
    AnnotatorUse,
    CandidateSource,
    ClusterConfig,
    DataConfig,
    GuardConfig,
    LearnerConfig,
    RoleConfig,
    RolloutConfig,
    SamplingConfig,
    Section,
    TrackingConfig,
)
from rayalign.types import Role


class PretrainStage(Section):
    """Make a model from its preset and train it on the unlabelled corpus; cached by content over runs."""

    kind: Literal["pretrain"]
    model: str = "preset:nano"
    data: DataConfig = DataConfig(split="corpus")
    vocabulary: PositiveInt = 2048
    """pieces of the tokenizer where it is trained on the data; the embedded world brings its own"""
    learner: LearnerConfig = LearnerConfig(learning_rate=1e-3, schedule="linear")
    epochs: PositiveInt = 1
    roles: dict[Role, RoleConfig] = {}


class TrainStage(Section):
    """Train by one algorithm: online where candidates come from the live policy, else offline on `data`."""

    kind: Literal["train"]
    algorithm: dict[str, Any]
    """`name` and the settings of that algorithm's own file"""
    model: str
    """what the first trained role starts from"""
    reference: str | None = None
    """None: as `model`"""
    reward: str | None = None
    """a model, or `annotator:NAME` of the annotator service"""
    critic: str | None = None
    """None: as `reward` where that is a model (warm start), else as `model`"""
    data: DataConfig = DataConfig()
    examples: str | None = None
    """`stage:NAME` of a generate or annotate stage, in the place of `data`"""
    learner: LearnerConfig = LearnerConfig()
    critic_learner: LearnerConfig | None = None
    """None: as `learner`"""
    roles: dict[Role, RoleConfig] = {}
    epochs: PositiveInt = 1
    """at most; see `stop_gain`"""
    stop_gain: NonNegativeFloat = 0.0
    """offline: stop when a further epoch lowers the held-out loss by less than this share"""
    holdout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """offline: share of the rows kept for the held-out figures"""
    steps: PositiveInt | None = None
    """offline: exactly so many optimizer steps, in the place of `epochs`"""
    candidates: tuple[CandidateSource, ...] = ()
    sampling: SamplingConfig = SamplingConfig()
    prompts: PositiveInt = 32
    """prompts per iteration (the rollout batch)"""
    iterations: PositiveInt = 40
    max_staleness: NonNegativeInt = 0
    """weight versions that a sample may lag when it is consumed"""
    deterministic: bool = False
    redo: NonNegativeInt = 3
    """how often a failed score is asked for again before the group is dropped"""
    checkpoint_every: PositiveInt = 10
    """iterations"""
    keep: PositiveInt = 2
    """last checkpoints kept"""
    guards: tuple[GuardConfig, ...] = ()

    @property
    def online(self) -> bool:
        """True where the live policy writes candidates."""
        return any(c.source == "live" for c in self.candidates)


class GenerateStage(Section):
    """Draw candidates for prompts with a model."""

    kind: Literal["generate"]
    model: str
    data: DataConfig = DataConfig()
    count: PositiveInt = 4
    sampling: SamplingConfig = SamplingConfig()


class AnnotateStage(Section):
    """Have a judge compare candidates; the verdicts become comparisons."""

    kind: Literal["annotate"]
    examples: str
    """`stage:NAME` of a generate stage"""
    judge: JudgeConfig = JudgeConfig()
    """compares in this process"""
    annotator: str | None = None
    """in the place of `judge`, a name of the annotator service"""
    pairs: PositiveInt = 1
    """pairs drawn from each group"""


class EvaluateStage(Section):
    """Compare models on the same unseen prompts; its figures are the run's summary."""

    kind: Literal["evaluate"]
    models: dict[str, str]
    """name in the table -> model"""
    baselines: tuple[Literal["constant", "empty", "copy", "longest", "oracle"], ...] = ()
    metric: Literal["gold_utility", "reward"] = "gold_utility"
    reward: str | None = None
    """the reward model, for the metric of that name"""
    annotator: str | None = None
    """compares each model with those of `against`, over the annotator service; one more win rate"""
    perplexity: str | None = None
    """an independent model that measures the answers' perplexity"""
    data: DataConfig = DataConfig(split="test")
    against: tuple[str, ...] = ()
    """models that every other one is compared with; empty: the first"""
    roles: dict[Role, RoleConfig] = {}
    """of `reward`, and of `reference`, which measures the perplexity"""
    sampling: SamplingConfig = SamplingConfig()


Stage = Annotated[
    PretrainStage | TrainStage | GenerateStage | AnnotateStage | EvaluateStage, Field(discriminator="kind")
]


class Job(Section):
    """A whole study."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: NonNegativeInt = 0
    output: str = "runs"
    data: DataConfig = DataConfig()
    cluster: ClusterConfig = ClusterConfig()
    rollout: RolloutConfig = RolloutConfig()
    tracking: TrackingConfig = TrackingConfig()
    annotator: AnnotatorUse = AnnotatorUse()
    stages: dict[str, Stage] = Field(min_length=1)
