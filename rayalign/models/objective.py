"""What one optimizer step minimises: a loss of an algorithm over a batch, in this rank's micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rayalign.algorithms.base import Algorithm
from rayalign.models.batching import micro_batches
from rayalign.models.heads import EntropyUse
from rayalign.models.metrics import renamed
from rayalign.types import Batch, LossSum, Metrics, Minibatch, Outputs, Role


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

    def pieces(self, role: Role, own_rows: Callable[[Batch], Batch], token_budget: int) -> list[Piece]:
        """A rank's micro-batches; their losses are divided by the normaliser of the global minibatch.

        Args:
            own_rows: takes the rank's share of a batch.
        """
        normaliser = self.algorithm.normaliser(role, self.batch)
        scale = self.weight / normaliser if normaliser else 0.0
        loss = partial(self.algorithm.loss, role)
        return [Piece(micro, self, scale, loss) for micro in micro_batches(own_rows(self.batch), token_budget)]


@dataclass(frozen=True, slots=True)
class Piece:
    """A micro-batch of an objective."""

    batch: Batch
    objective: Objective
    scale: float
    """what its loss sum is multiplied by"""
    loss: Callable[[Outputs, Minibatch], LossSum]
    """the algorithm's for the role, or its linear form for a part of a large unit"""


def entropy_use(objectives: Sequence[Objective]) -> EntropyUse:
    """What the losses of a step do with entropies."""
    algorithms = [objective.algorithm for objective in objectives]
    if any(algorithm.differentiates_entropy for algorithm in algorithms):
        return "gradient"
    return "value" if any(algorithm.reads_entropy for algorithm in algorithms) else "none"
