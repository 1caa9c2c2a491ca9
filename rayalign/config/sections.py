"""The sections of a job. Frozen; unknown keys are refused; a constructor gets its own section, never the whole job."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from rayalign.config.section import Section as Section


class BeamConfig(Section):
    """Beam search in the place of drawing; in groups it is diverse (Vijayakumar 2018, arXiv 1610.02424)."""

    width: PositiveInt = 4
    """beams, and so the most candidates of a prompt"""
    groups: PositiveInt = 1
    """of beams that avoid each other's tokens; they divide the width"""
    penalty: NonNegativeFloat = 1.0
    """of a token for each time that an earlier group chose it at the same step [nats]"""
    length_exponent: NonNegativeFloat = 1.0
    """answers are ordered by log-prob / length ** this"""

    @model_validator(mode="after")
    def _groups_divide_the_width(self) -> BeamConfig:
        if self.width % self.groups:
            raise ValueError(f"width {self.width} is not a multiple of {self.groups} groups")
        return self


class SamplingConfig(Section):
    """How answers are drawn."""

    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    """0: the most likely token each time; vLLM takes at most 2"""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """share of the probability that the likeliest tokens must hold together; the others are cut off. 1: off"""
    top_k: NonNegativeInt = 0
    """number of the likeliest tokens that are kept; 0: off"""
    max_tokens: PositiveInt = 48
    """longest answer [tokens]"""
    beams: BeamConfig | None = None
    """the candidates of a prompt are the answers of one search; `temperature` shapes its probabilities"""


class LoraConfig(Section):
    """A low-rank adapter beside frozen weights (Hu et al. 2021, arXiv:2106.09685), in peft's terms."""

    rank: PositiveInt = 16
    """columns of its two factors"""
    alpha: PositiveFloat = 32.0
    """the adapter's output is scaled by alpha / rank"""
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), min_length=1
    )
    """last parts of the names of the linear layers that get an adapter"""
    dropout: Literal[0] = 0
    """none: the ratios of policy gradients need one distribution"""


class LearnerConfig(Section):
    """One trained (or only evaluated) model: optimizer, precision, batches."""

    learning_rate: PositiveFloat = 1e-4
    """highest learning rate of AdamW, reached after `warmup_steps`"""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """how the learning rate goes on after the warm-up; linear and cosine end at 0"""
    warmup_steps: NonNegativeInt = 0
    """optimizer steps in which the learning rate rises from 0"""
    weight_decay: NonNegativeFloat = 0.0
    """of AdamW"""
    betas: tuple[float, float] = (0.9, 0.95)
    """of AdamW"""
    eps: PositiveFloat = 1e-8
    """of AdamW"""
    clip_norm: PositiveFloat = 1.0
    """global gradient norm"""
    minibatch: PositiveInt = 64
    """samples (sequences) per optimizer step, over all ranks"""
    length_window: PositiveInt = 1
    """samples sorted by length before they are cut into minibatches, which saves padding; 1: none"""
    micro_tokens: PositiveInt = 8192
    """padded tokens per forward pass on one device"""
    chunk_logits: PositiveInt | None = None
    """logits that exist at a time; null: 64 MiB of them on a CPU, 512 MiB on a GPU"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """of the weights in forward and backward passes; bf16 keeps a master copy in fp32"""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """what DeepSpeed divides among ranks: 1 the optimizer's state, 2 gradients too, 3 weights too"""
    zero_live_parameters: NonNegativeInt | None = None
    """ZeRO stage 3: parameters that a rank keeps whole between two uses; null: DeepSpeed's default"""
    gradient_checkpointing: bool = False
    """compute activations again in the backward pass instead of keeping them"""
    offload: Literal["none", "optimizer", "all"] = "none"
    """what DeepSpeed keeps in host memory during a step: Adam's state (from ZeRO stage 1 on), weights too (stage 3)"""
    attention: Literal["auto", "flash", "sdpa"] = "auto"
    """the kernel; auto: flash-attention on a GPU in bf16 where it is installed, else that of torch"""
    lora: LoraConfig | None = None
    """train an adapter (and a scalar head) alone; null: all weights"""
    ema: float | None = Field(default=None, gt=0.0, lt=1.0)
    """decay of a moving average of the weights, saved beside them as `stage:NAME/ema`; 0.992 in DeepSpeed-Chat"""

    @model_validator(mode="after")
    def _offloads_what_is_divided(self) -> LearnerConfig:
        least = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero_stage < least:
            raise ValueError(f"offload {self.offload} needs zero_stage {least} or higher")
        return self


class RoleConfig(Section):
    """How one role is hosted."""

    actors: PositiveInt = 1
    """ranks of a learner, or replicas"""
    min_actors: PositiveInt | None = None
    """offline, by Ray Train: ranks with which the stage goes on where machines are lost; null: all of them"""
    cpus: PositiveFloat | None = None
    """of each actor; null: an even share of the machine, at most 1"""
    gpus: NonNegativeFloat = 0.0
    """of each actor; a fraction shares a device"""
    threads: PositiveInt | None = None
    """BLAS and OpenMP threads of each actor; null: as many as its `cpus`, else a share of the cores"""
    resident: bool = False
    """on shared devices: keeps its memory there while others have their turn"""
    spread: bool = False
    """only of a reference or reward model: each actor holds a part (ZeRO-3), so that no device holds it whole"""
    within: Literal["policy"] | None = None
    """only of an online stage's reference: the role whose ranks compute it, a share each; null: actors of its own"""

    @model_validator(mode="after")
    def _has_as_many_as_its_fewest(self) -> RoleConfig:
        if self.min_actors is not None and self.min_actors > self.actors:
            raise ValueError(f"min_actors {self.min_actors} is above actors {self.actors}; lower it")
        return self

    @model_validator(mode="after")
    def _is_spread_over_several(self) -> RoleConfig:
        if self.spread and self.actors == 1:
            raise ValueError("spread needs actors: 2 or more, which hold the model in parts")
        return self

    @model_validator(mode="after")
    def _has_no_actors_within_others(self) -> RoleConfig:
        if self.within is None:
            return self
        beside: list[str] = []
        for name, field in type(self).model_fields.items():  # a job that was written out names its defaults too
            if name != "within" and getattr(self, name) != field.default:
                beside.append(name)
        if beside:
            raise ValueError(f"within {self.within} leaves no actors of its own; leave out {', '.join(sorted(beside))}")
        return self


class RolloutConfig(Section):
    """The generator pool; one serves all stages of a run."""

    engine: Literal["auto", "vllm", "local"] = "auto"
    """auto: vllm where it runs, but local for small models on a CPU, where it starts sooner and writes as fast"""
    engines: PositiveInt = 2
    """number of engines"""
    max_engines: PositiveInt | None = None
    """as many as there may be while the cluster has room, or can grow; null: always `engines`"""
    context: PositiveInt = 128
    """longest prompt and answer together [tokens]"""
    max_sequences: PositiveInt = 128
    """sequences in flight on one engine"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of weights and cache; the learner's precision, or engine and trainer disagree about log-probs"""
    cache_bytes: PositiveInt = 128 << 20
    """KV cache of one engine"""
    tensor_parallel: PositiveInt = 1
    """devices that share the weights of one engine"""
    weights: Literal["auto", "store", "files", "nccl", "ipc"] = "auto"
    """the path of new weights; auto: nccl or ipc from device to device, else the object store"""
    adapter: Literal["auto", "separate", "merged"] = "auto"
    """how an adapter reaches the engines: beside its base, or added to it"""
    cpus: PositiveFloat | None = None
    """of one engine; null: an even share of the machine, at most 1"""
    gpus: NonNegativeFloat = 0.0
    """of one engine: on devices, as many as `tensor_parallel`"""
    threads: PositiveInt = 1
    """more than one stalls beside other busy processes"""

    @model_validator(mode="after")
    def _grows_upwards(self) -> RolloutConfig:
        if self.max_engines is not None and self.max_engines < self.engines:
            raise ValueError(f"max_engines {self.max_engines} is below engines {self.engines}")
        return self


class LogicalDevices(Section):
    """Devices by name only: what shares them computes on the CPU, and its claims are held against their capacity."""

    count: PositiveInt = 1
    """number of devices"""
    bytes: PositiveInt
    """capacity of each"""


class ClusterConfig(Section):
    """The Ray session, and the deadlines of every wait."""

    address: str | None = None
    """null: the cluster this job was submitted to, else a local one"""
    cpus: PositiveFloat | None = None
    """of a local session; null: the cores of this machine"""
    gpus: NonNegativeInt | None = None
    """of a local session; null: those of this machine. With more than there are `check` still plans the job"""
    gpu_memory: PositiveInt = 80 << 30
    """capacity of one device [bytes], for the plan and the ledger"""
    share_devices: bool = False
    """the engines and the roles of a stage take turns on the same devices; else each has its own"""
    logical_devices: LogicalDevices | None = None
    """in the place of GPUs, to rehearse on a CPU: roles have them as they would have GPUs, and compute on the CPU"""
    object_store: PositiveInt | None = None
    """of a local session [bytes]; null: what the plan needs"""
    launcher: Literal["auto", "ray_train", "actors"] = "auto"
    """what runs offline stages; auto: worker processes of the run, Ray Train where ranks need several machines"""
    start_timeout: PositiveFloat = 300.0
    """seconds until an actor must be ready"""
    call_timeout: PositiveFloat = 1800.0
    """seconds until any call to an actor must have answered"""
    scale_timeout: NonNegativeFloat = 1800.0
    """seconds in which a cluster that a run joins may grow to what a stage needs; 0: all must be there at the start"""
    transfer_timeout: PositiveFloat = 120.0
    """seconds until a weight transfer must have been proven"""
    heartbeat_timeout: PositiveFloat = 30.0
    """seconds that an actor may leave its heartbeat unanswered, without any work, until it counts as lost"""
    restarts: NonNegativeInt = 3
    """after losses of actors, for each role: in the lost one's place, learners all together from the last checkpoint"""
    environment: dict[str, str] = {}
    """variables of every process that the run starts on the cluster, such as NCCL_SOCKET_IFNAME: eth0"""

    @property
    def devices(self) -> int | None:
        """Devices of a local session, logical ones or GPUs; None: the GPUs of this machine."""
        return self.logical_devices.count if self.logical_devices else self.gpus

    @property
    def device_bytes(self) -> int:
        """Capacity of one device."""
        return self.logical_devices.bytes if self.logical_devices else self.gpu_memory


class TrackingConfig(Section):
    """Where metrics go besides JSONL and the console."""

    tensorboard: bool = False
    """write event files into the run's folder"""
    wandb: str | None = None
    """project name; the key comes from the environment, WANDB_MODE=offline works"""
    samples: NonNegativeInt = 8
    """rows of the sample table kept each iteration"""


class AnnotatorUse(Section):
    """The annotator service that stages use by `annotator: NAME`, or as `reward: annotator:NAME`."""

    url: str | None = None
    """a running one; its token is read from RAYALIGN_TOKEN. null: the run starts one for itself"""
    file: str | None = None
    """pool of the run's own service; null: the embedded one"""


class GuardConfig(Section):
    """A limit on a metric of each iteration."""

    metric: str
    """name of the metric, `area/name`"""
    above: float | None = None
    """the guard acts above this value"""
    below: float | None = None
    """the guard acts below this value"""
    patience: PositiveInt = 1
    """iterations in a row before it acts"""
    action: Literal["warn", "stop", "rollback"] = "warn"
    """log a warning, stop the run, or go back to the last good checkpoint and on from there with other samples"""
    rollbacks: PositiveInt = 3
    """of the stage in all; then it stops"""
    rate: float = Field(default=1.0, gt=0.0, le=1.0)
    """factor on the learning rate at each rollback"""
