"""Metrics: numbers that know how they are reduced."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that knows how it is reduced over micro-batches, ranks and steps."""

    value: float
    weight: float = 1.0
    reduction: Literal["mean", "sum", "max", "min"] = "mean"

    def merge(self, other: Metric) -> Metric:
        """This metric with another observation of the same name."""
        if self.reduction != "mean":
            values = (self.value, other.value)
            merged = {"sum": sum(values), "max": max(values), "min": min(values)}[self.reduction]
            return replace(self, value=merged, weight=self.weight + other.weight)
        weight = self.weight + other.weight
        if weight == 0.0:
            return self
        return Metric((self.value * self.weight + other.value * other.weight) / weight, weight)


Metrics = dict[str, Metric]


def merged(observations: Iterable[Metrics]) -> Metrics:
    """Observations from micro-batches, ranks or steps, each name reduced by its own rule."""
    totals: Metrics = {}
    for metrics in observations:
        for name, metric in metrics.items():
            totals[name] = totals[name].merge(metric) if name in totals else metric
    return totals
