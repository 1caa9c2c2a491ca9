"""What a stage needs that runs beside it: roles, the engines of the pool, annotators of the service."""

from __future__ import annotations

from dataclasses import dataclass

from rayalign.cluster.turns import Presence
from rayalign.config import ClusterConfig, Job, LearnerConfig, RewardSource, RoleConfig

GENERATOR = "generator"
"""the role of the pool's engines"""


@dataclass(frozen=True, slots=True)
class AnnotatorRead:
    """An annotator of the service that a stage asks."""

    key: str
    name: str
    scores: bool = False
    """it has to score single answers; else it may also be one that only compares"""


@dataclass(frozen=True, slots=True)
class RoleNeed:
    """A role of a stage, before it has a place."""

    role: str
    model: str
    host: RoleConfig = RoleConfig()
    learner: LearnerConfig = LearnerConfig()
    trained: bool = False
    further_models: tuple[str, ...] = ()
    """frozen models that each actor holds beside `model`"""
    memory: int | None = None
    """of one actor, where it does not follow from the model's shape [bytes]"""
    within: str | None = None
    """the role in whose actors it runs, without devices or CPUs of its own"""
    presence: Presence | None = None
    """when it has what on shared devices; None: as its role has in an online stage"""
    only_models: bool = True
    """its actors ask no annotator, rules or code"""

    @property
    def models(self) -> int:
        """Models that one actor holds; a reward of rules, code or an annotator is none."""
        if self.memory == 0 or (self.role == "reward" and RewardSource(source=self.model).form != "model"):
            return int(self.trained)
        return 1 + len(self.further_models)


def host_alone(cluster: ClusterConfig, host: RoleConfig) -> RoleConfig:
    """How a role outside of shared devices is hosted: of logical ones that are shared it claims none."""
    beside_shared = cluster.share_devices and cluster.logical_devices is not None
    return host.model_copy(update={"gpus": 0.0}) if beside_shared else host


def generator(job: Job, model: str) -> RoleNeed:
    """The engines of the pool, with this model first."""
    pool = job.rollout
    host = RoleConfig(actors=pool.engines, cpus=pool.cpus, gpus=pool.gpus, threads=pool.threads)
    return RoleNeed(GENERATOR, model, host)
