"""The stages of a job, and the job itself.

A model is named by a string: `preset:nano` (made from the seed), `stage:sft` (the output of an earlier stage), else a
folder in Hugging Face format or a hub name.

A stage kind is one section, here, in `pretrain.py`, `model_stages.py` or `evolve.py`, and the file
`rayalign/pipeline/KIND.py`, which describes it to the pipeline.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rayalign.config.annotators import JudgeConfig
from rayalign.config.answers import MIXTURES, ONLINE_MIXTURES, AnswerSource, Candidates, CandidateSource, Sources
from rayalign.config.best_of import BestOf
from rayalign.config.data_sections import DataConfig
from rayalign.config.evolve import EvolveStage, PriorityConfig
from rayalign.config.model_stages import MergeStage, RewardTokensStage
from rayalign.config.overlap import OverlapConfig
from rayalign.config.pretrain import PretrainStage
from rayalign.config.rewards import CombineKind, Reward, Rewarded, RewardText
from rayalign.config.sections import (
    AnnotatorUse,
    ClusterConfig,
    GuardConfig,
    LearnerConfig,
    RoleConfig,
    RolloutConfig,
    SamplingConfig,
    Section,
    TrackingConfig,
)
from rayalign.config.stage_section import CRITIC_SPEED, LEARNER_SPEED, DrawingSection, ReadingSection, StageSection
from rayalign.types import Role


class MixConfig(Section):
    """A second objective of the policy, on data of its own; InstructGPT's and DeepSpeed-Chat's `ptx` with `sft`."""

    algorithm: dict[str, Any]
    """one that trains a language model on sequences, without reference or scores"""
    data: DataConfig = DataConfig()
    """takes the keys of the job's `data` that it does not set itself, as the stage's own does"""
    weight: PositiveFloat = 1.0
    """of its loss beside the stage's own; 27.8 in InstructGPT and DeepSpeed-Chat"""
    samples: PositiveInt = 32
    """rows of each optimizer step"""


class TrainStage(Rewarded, StageSection):
    """Train by one algorithm: online where candidates come from the live policy, else offline on `data`."""

    placement = (
        StageSection.placement
        | LEARNER_SPEED
        | CRITIC_SPEED
        | {"keep", "checkpoint_every", "reference_outputs", "guards"}
    )
    kind: Literal["train"]
    algorithm: dict[str, Any]
    """`name` and the settings of that algorithm's own file"""
    model: str
    """what the first trained role starts from"""
    reference: str | None = None
    """null: as `model`"""
    reference_outputs: Literal["stored", "live"] = "stored"
    """offline: computed once before training and kept in the stage's folder, or live, by a model beside the learner"""
    reward: Reward | None = None
    """a model, `annotator:NAME`, `rules:KIND` or code, or a list of such sources with names and weights"""
    combine: CombineKind | None = None
    """how the parts of a `reward` that is a list become one score; null: weighted"""
    critic: str | None = None
    """null: as the first model of `reward` (warm start), else as `model`"""
    data: DataConfig = DataConfig()
    examples: str | None = None
    """`stage:NAME` of a generate or annotate stage, in the place of `data`"""
    answers: Literal["chosen", "conditioned"] | None = None
    """offline, of compared pairs: the better answer alone, or both, each after the reward token of its quality"""
    mix: MixConfig | None = None
    """online: a second objective that is trained in the policy's optimizer steps"""
    learner: LearnerConfig = LearnerConfig()
    critic_learner: LearnerConfig | None = None
    """null: as `learner`"""
    roles: dict[Role, RoleConfig] = {}
    """how each role is hosted: policy, critic, reference, reward"""
    epochs: PositiveInt = 1
    """at most; see `stop_gain`"""
    stop_gain: NonNegativeFloat = 0.0
    """offline: stop when a further epoch lowers the held-out loss by less than this share"""
    holdout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """offline: share of the rows kept for the held-out figures"""
    near_duplicates: float | None = Field(default=None, gt=0.0, le=1.0)
    """offline: similarity from which two rows are duplicates; they are removed, and a split that leaks is refused"""
    steps: PositiveInt | None = None
    """offline: exactly so many optimizer steps, in the place of `epochs`"""
    candidates: Candidates = ()
    """sources, or RRHF's online settings by name: OP-k, OD-k"""
    sampling: SamplingConfig = SamplingConfig()
    environment: str | None = None
    """online: replies to the policy's turns; `paddock_two_turn`, or `package.module:Class`. null: one turn each"""
    max_turns: PositiveInt = 8
    """of the policy in one candidate; with an environment"""
    prompts: PositiveInt = 32
    """prompts per iteration (the rollout batch)"""
    iterations: PositiveInt = 40
    """how often a batch of prompts is answered, scored and trained on"""
    priority: PriorityConfig | None = None
    """online: how prompts are drawn after each came once; null: all alike, shuffled again in each epoch"""
    max_staleness: NonNegativeInt = 0
    """weight versions that a sample may lag when it is consumed"""
    overlap: OverlapConfig | None = None
    """online: answers in flight when weights come, and prompts beyond those of an iteration; null: its defaults"""
    deterministic: bool = False
    """online: groups are scored alone, and an unfinished iteration is repeated, for the same bits after a resume"""
    redo: NonNegativeInt = 3
    """how often a failed score is computed again before the group is dropped"""
    checkpoint_every: PositiveInt = 10
    """iterations"""
    keep: PositiveInt = 2
    """last checkpoints kept"""
    guards: tuple[GuardConfig, ...] = ()
    """limits on metrics, which warn or stop the run"""

    @property
    def online(self) -> bool:
        """True where the live policy writes candidates."""
        return any(c.source == "live" for c in self.candidate_sources)

    @property
    def candidate_sources(self) -> tuple[CandidateSource, ...]:
        """Where the candidates of a prompt come from, online."""
        if isinstance(self.candidates, str):
            return ONLINE_MIXTURES[self.candidates.partition("-")[0]]
        return self.candidates

    @property
    def overlapping(self) -> OverlapConfig:
        """`overlap`, or its defaults where the stage has none."""
        return self.overlap or OverlapConfig()

    @property
    def renewal_steps(self) -> int | None:
        """Optimizer steps after which the engines are to have new weights; None: as many as an iteration has."""
        return int(self.candidates.partition("-")[2]) if isinstance(self.candidates, str) else None

    @property
    def candidates_per_prompt(self) -> int:
        """Candidates of one group, counting all that a data set may give."""
        return sum(c.count for c in self.candidate_sources)


class GenerateStage(DrawingSection):
    """Draw candidates for prompts with a model."""

    kind: Literal["generate"]
    model: str
    """what writes the answers"""
    data: DataConfig = DataConfig()
    count: PositiveInt = 4
    """answers to each prompt"""
    sources: Sources | None = None
    """several places in the place of `count`, or a mixture of RRHF by name: BP, DP, SP, D, P, IP or IP-n"""
    best_of: BestOf | None = None
    """each answer is the best of several candidates; `stage:NAME/drawn` are all of them with their scores"""

    @property
    def answer_sources(self) -> tuple[AnswerSource, ...]:
        """The places that candidates come from; none where they are simply drawn."""
        return MIXTURES[self.sources] if isinstance(self.sources, str) else self.sources or ()


class AnnotateStage(ReadingSection):
    """Have a judge compare candidates; the verdicts become comparisons."""

    kind: Literal["annotate"]
    examples: str
    """`stage:NAME` of a generate stage"""
    judge: JudgeConfig = JudgeConfig()
    """compares in this process"""
    annotator: str | None = None
    """in the place of `judge`, a name of the annotator service"""
    flip: float | None = Field(default=None, ge=0.0, le=0.5)
    """probability that a verdict of `annotator` is turned round, drawn by prompt and seed; AlpacaFarm: 0.25, null: 0"""
    pairwise: str | None = None
    """in the place of both, a pairwise reward model; its verdicts are probabilities"""
    pairs: PositiveInt = 1
    """pairs drawn from each group"""


class EvaluateStage(DrawingSection):
    """Compare models on the same unseen prompts; its figures are the run's summary."""

    kind: Literal["evaluate"]
    models: dict[str, str]
    """name in the table -> model"""
    by_profile: dict[str, dict[str, str]] | None = None
    """with data.preferences: name in the table -> profile -> the model that answers under it, such as a merge"""
    unprompted: tuple[str, ...] | None = None
    """with data.preferences: the models whose prompts do not name them"""
    best_of: dict[str, BestOf] = {}
    """name in the table -> how its answers are chosen; other models answer once"""
    baselines: tuple[Literal["constant", "empty", "copy", "longest", "oracle"], ...] = ()
    """trivial answerers in the same table; oracle is the embedded world's best answer"""
    metric: Literal["gold_utility", "reward"] = "gold_utility"
    """the true utility of the embedded world, or the score of `reward`"""
    reward: RewardText | None = None
    """for the metric of that name: a reward model, `annotator:NAME`, `rules:KIND`, or code as `package.module:name`"""
    annotator: str | tuple[str, ...] | None = None
    """compares each model with those of `against`, over the annotator service; several give one win rate each"""
    by_criterion: tuple[str, ...] | None = None
    """with data.preferences: those of `annotator` that also compare by each preference of a profile alone, and by
    helpfulness; of three preferences this is four more verdicts for each one"""
    perplexity: str | None = None
    """an independent model that measures the answers' perplexity"""
    data: DataConfig = DataConfig(split="test")
    against: tuple[str, ...] = ()
    """models that every other one is compared with; empty: the first"""

    @property
    def names(self) -> tuple[str, ...]:
        """The models by their names in the table."""
        return (*self.models, *(self.by_profile or {}))

    @property
    def judges(self) -> tuple[str, ...]:
        """The annotators."""
        if self.annotator is None:
            return ()
        return (self.annotator,) if isinstance(self.annotator, str) else self.annotator


_Sections: TypeAlias = (
    PretrainStage
    | TrainStage
    | GenerateStage
    | AnnotateStage
    | EvaluateStage
    | MergeStage
    | RewardTokensStage
    | EvolveStage
)
Stage = Annotated[_Sections, Field(discriminator="kind")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""a name that becomes a folder"""
StageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(@[1-9][0-9]*)?$")]
"""`ppo`, or `ppo@2` for the stage of a loop's second round"""


def section_of(kind: str) -> type[StageSection] | None:
    """The section of a stage kind; None for a kind that does not exist."""
    sections: tuple[type[StageSection], ...] = get_args(get_args(Stage)[0])
    matching = [section for section in sections if kind in get_args(section.model_fields["kind"].annotation)]
    return matching[0] if matching else None


class Job(Section):
    """A whole study."""

    name: Name
    """of the run's folder"""
    seed: NonNegativeInt = 0
    """of every random draw: models, order of data, sampling"""
    output: str = "runs"
    """where the run's folder is made; relative to where the command starts"""
    chat_template: str | None = None
    """of model folders without one: default, alpaca, chatml, or a file; a model's own is never replaced"""
    data: DataConfig = DataConfig()
    cluster: ClusterConfig = ClusterConfig()
    rollout: RolloutConfig = RolloutConfig()
    tracking: TrackingConfig = TrackingConfig()
    annotator: AnnotatorUse = AnnotatorUse()
    stages: dict[StageName, Stage] = Field(min_length=1)
    """name -> stage, in the order in which they run"""


class LoopConfig(Section):
    """Stages that run in rounds; unrolled while the job is loaded."""

    kind: Literal["loop"] = "loop"
    rounds: PositiveInt
    """how often the stages run"""
    stages: dict[Name, Stage] = Field(min_length=1)
    """the stages of one round, in their order"""
    first: dict[str, str | None] = {}
    """what `stage:NAME@previous` is in the first round, by NAME or NAME/ROLE; null: a key without a value"""


class WrittenJob(Job):
    """A job as its file says it, with loops."""

    stages: dict[StageName, Annotated[_Sections | LoopConfig, Field(discriminator="kind")]] = Field(min_length=1)  # type: ignore[assignment]
