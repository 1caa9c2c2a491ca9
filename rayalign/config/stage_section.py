"""What the sections of several stage kinds share."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import ClassVar, Literal

from pydantic import PositiveInt

from rayalign.config.references import Reference, references_in
from rayalign.config.sections import LearnerConfig, RoleConfig, SamplingConfig, Section
from rayalign.types import Role

_SPEED = (
    "micro_tokens",
    "chunk_logits",
    "zero_stage",
    "zero_live_parameters",
    "gradient_checkpointing",
    "offload",
    "attention",
)
"""settings of a learner that change its speed and its memory, never its result"""
LEARNER_SPEED = frozenset(f"learner.{key}" for key in _SPEED)
CRITIC_SPEED = frozenset(f"critic_learner.{key}" for key in _SPEED)


class StageSection(Section):
    """What the sections of all stage kinds share."""

    placement: ClassVar[Set[str]] = frozenset({"roles"})
    """dotted keys that say where and how a stage runs, never what it computes"""
    kind: str
    """the kind of stage"""

    def references(self) -> Iterator[tuple[str, Reference]]:
        """Dotted key of each value that names an earlier stage's output, with that name."""
        return references_in(self.model_dump())


class ReadingSection(StageSection):
    """What stages share whose models read answers and are not trained."""

    roles: dict[Role, RoleConfig] = {}
    """of the models that read the answers: `reward`, and `reference`, which measures the perplexity"""
    precision: Literal["fp32", "bf16"] | None = None
    """in which those two compute; null: fp32"""

    @property
    def reader(self) -> LearnerConfig:
        """How the models of `roles` are loaded, which are only read."""
        return LearnerConfig(precision=self.precision or "fp32")


class DrawingSection(ReadingSection):
    """What stages share that draw answers of models which they do not train."""

    sampling: SamplingConfig = SamplingConfig()
    environment: str | None = None
    """as of a train stage"""
    max_turns: PositiveInt = 8
    """of the model in one answer; with an environment"""
