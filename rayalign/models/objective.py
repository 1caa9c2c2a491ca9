"""What one optimizer step minimises: a loss of an algorithm over a batch, in this rank's micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rayalign.algorithms.base import Algorithm
from rayalign.models.batching import micro_batches, shard
from rayalign.models.heads import EntropyUse
from rayalign.models.metrics import renamed
from rayalign.types import Batch, Metrics, Role


def entropy_use(algorithm: Algorithm[Any]) -> EntropyUse:
    """What the losses of an algorithm do with entropies."""
    if algorithm.differentiates_entropy:
        return "gradient"
    return "value" if algorithm.reads_entropy else "none"


@dataclass(frozen=True, slots=True)
class Objective:
    """One loss of an optimizer step: the mean over its batch, times its weight."""

    batch: Batch
    algorithm: Algorithm[Any]
    weight: float = 1.0
    temperature: float | None = None
    """at which log-probs are read; None: the head's own"""
    area: str | None = None
    """that its metrics are reported in; None: as the algorithm names them"""

    def named(self, metrics: Metrics) -> Metrics:
        """Metrics of the algorithm under the names of this objective."""
        if self.area is None:
            return metrics
        return {new: metrics[name] for new, name in renamed(self.area, metrics).items()}

    def pieces(self, role: Role, rank: int, world: int, token_budget: int) -> list[Piece]:
        """This rank's micro-batches; their losses are divided by the normaliser of the global minibatch."""
        normaliser = self.algorithm.normaliser(role, self.batch)
        scale = self.weight / normaliser if normaliser else 0.0
        share = shard(self.batch, rank, world)
        return [Piece(micro, self, scale) for micro in micro_batches(share, token_budget)]


@dataclass(frozen=True, slots=True)
class Piece:
    """A micro-batch of an objective, and what its loss sum is multiplied by."""

    batch: Batch
    objective: Objective
    scale: float
