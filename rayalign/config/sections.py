"""The sections of a job. Frozen; unknown keys are refused; a constructor gets its own section, never the whole job.

A model is named by a string: `preset:nano` (made from the seed), `stage:sft` (the output of an earlier stage), else a
folder in Hugging Face format or a hub name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from rayalign.types import Role


class Section(BaseModel):
    """Base of every section."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _keep_own_defaults(cls, given: Any) -> Any:
        """A section given in part keeps what its parent's default sets: pretraining's learning rate, say."""
        if not isinstance(given, dict):
            return given
        filled = dict(given)
        for name, field in cls.model_fields.items():
            if isinstance(field.default, Section) and isinstance(given.get(name), dict):
                filled[name] = {**field.default.model_dump(exclude_unset=True), **given[name]}
        return filled


class DataConfig(Section):
    """Where rows come from. A stage's own values override the job's `data`, key by key."""

    format: str = "paddock"
    """a reader's name: paddock, hh, alpaca, prompts, demonstrations, comparisons, rankings"""
    path: str | None = None
    """file, folder, or the name of a `datasets` data set; the embedded world needs none"""
    split: str = "train"
    limit: PositiveInt | None = None
    """rows kept, the first ones after the reader's own order"""
    too_long: Literal["refuse", "skip"] = "refuse"
    """what becomes of a prompt that leaves no room for an answer"""


class SamplingConfig(Section):
    """How answers are drawn."""

    temperature: NonNegativeFloat = 1.0
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: NonNegativeInt = 0
    """0: off"""
    max_tokens: PositiveInt = 48
    """longest answer [tokens]"""


class LearnerConfig(Section):
    """One trained (or only evaluated) model: optimizer, precision, batches."""

    learning_rate: PositiveFloat = 1e-4
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0
    weight_decay: NonNegativeFloat = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    clip_norm: PositiveFloat = 1.0
    """global gradient norm"""
    minibatch: PositiveInt = 64
    """samples (sequences) per optimizer step, over all ranks"""
    micro_tokens: PositiveInt = 8192
    """padded tokens per forward pass on one device"""
    precision: Literal["fp32", "bf16"] = "fp32"
    zero_stage: Literal[0, 1, 2, 3] = 0
    gradient_checkpointing: bool = False
    attention: Literal["auto", "flash", "sdpa"] = "auto"


class RoleConfig(Section):
    """How one role is hosted."""

    actors: PositiveInt = 1
    """ranks of a learner, or replicas"""
    cpus: PositiveFloat | None = None
    """for each actor, as `gpus` is; None: an even share of the machine, at most 1"""
    gpus: NonNegativeFloat = 0.0
    threads: PositiveInt | None = None
    """BLAS and OpenMP threads of each actor; None: as many as its `cpus`, at least 1"""


class RolloutConfig(Section):
    """The generator pool; one serves all stages of a run."""

    engine: Literal["auto", "vllm", "local"] = "auto"
    engines: PositiveInt = 2
    context: PositiveInt = 128
    """longest prompt and answer together [tokens]"""
    max_sequences: PositiveInt = 128
    """sequences in flight on one engine"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    cache_bytes: PositiveInt = 128 << 20
    """KV cache of one engine"""
    tensor_parallel: PositiveInt = 1
    cpus: PositiveFloat | None = None
    gpus: NonNegativeFloat = 0.0
    threads: PositiveInt = 1
    """more than one stalls beside other busy processes"""


class ClusterConfig(Section):
    """The Ray session, and the deadlines of every wait."""

    address: str | None = None
    """None: the cluster this job was submitted to, else a local one"""
    cpus: PositiveFloat | None = None
    """of a local session; None: the cores of this machine"""
    gpus: NonNegativeInt | None = None
    """of a local session; None: those of this machine. Logical devices are allowed for rehearsals"""
    gpu_memory: PositiveInt = 80 << 30
    """capacity of one device [bytes], for the plan and the ledger"""
    object_store: PositiveInt = 512 << 20
    """of a local session [bytes]"""
    start_timeout: PositiveFloat = 300.0
    """seconds until an actor must be ready"""
    call_timeout: PositiveFloat = 1800.0
    """seconds until any call to an actor must have answered"""
    transfer_timeout: PositiveFloat = 120.0
    """seconds until a weight transfer must have been proven"""


class TrackingConfig(Section):
    """Where metrics go besides JSONL and the console."""

    tensorboard: bool = False
    wandb: str | None = None
    """project name; the key comes from the environment, WANDB_MODE=offline works"""
    samples: NonNegativeInt = 8
    """rows of the sample table kept each iteration"""


class JudgeConfig(Section):
    """Who compares two answers."""

    kind: Literal["rubric"] = "rubric"
    temperature: PositiveFloat = 0.1
    """Bradley-Terry scale of the utility: smaller is more certain"""
    flip: float = Field(default=0.0, ge=0.0, le=0.5)
    """share of verdicts turned round"""
    length_bias: float = 0.0
    """utility added for each answer word"""


class CandidateSource(Section):
    """Where a group's candidates come from."""

    source: Literal["live", "dataset"]
    count: PositiveInt = 4  # drawn for each prompt, or at most so many of the row's own


class GuardConfig(Section):
    """A limit on a metric of each iteration."""

    metric: str
    above: float | None = None
    below: float | None = None
    patience: PositiveInt = 1
    """iterations in a row before it acts"""
    action: Literal["warn", "stop"] = "warn"


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
    critic: str | None = None
    """None: as `reward` where there is one (warm start), else as `model`"""
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
    """offline: stop when an epoch lowers the held-out loss by less than this share"""
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
    redo: NonNegativeInt = 1
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
    stages: dict[str, Stage] = Field(min_length=1)
