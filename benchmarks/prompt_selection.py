"""Seconds of choosing 250,000 of a million prompts by the rewards of six candidates each: value, weights, drawing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import get_args

import numpy as np

from benchmarks.record import record
from rayalign.config import Metric, SelectionKind
from rayalign.evolve.informativeness import Array, informativeness, sampling_weights, topic_blend
from rayalign.evolve.selection import select

PROMPTS, CANDIDATES = 1_000_000, 6
SELECTED = PROMPTS // 4
TOPICS = 1000
FLOOR, RARENESS = 0.2, 0.5


def seconds_of(rewards_PK: Array, topics: Sequence[int], metric: Metric, selection: SelectionKind) -> dict[str, float]:
    """The time of each step, and of all."""
    start = time.perf_counter()
    values_P = informativeness(rewards_PK, metric)
    valued = time.perf_counter()
    weights_P = topic_blend(sampling_weights(values_P, kind="min-max", floor=FLOOR), topics, RARENESS)
    weighted = time.perf_counter()
    places = select(weights_P, SELECTED, kind=selection, seed=0)
    end = time.perf_counter()
    if len(set(places)) != SELECTED:
        raise SystemExit(f"{selection} drew {len(set(places))} prompts in place of {SELECTED}")
    return {"values": valued - start, "weights": weighted - valued, "drawing": end - weighted, "all": end - start}


def main() -> None:
    """Measure every metric with weighted drawing, and every way of drawing with the gap."""
    generator = np.random.default_rng(0)
    rewards_PK = generator.normal(size=(PROMPTS, CANDIDATES))
    topics: list[int] = generator.integers(TOPICS, size=PROMPTS).tolist()
    metrics = {metric: seconds_of(rewards_PK, topics, metric, "weighted") for metric in get_args(Metric)}
    selections = {kind: seconds_of(rewards_PK, topics, "gap", kind) for kind in get_args(SelectionKind)}
    longest = max(row["all"] for row in (*metrics.values(), *selections.values()))
    record("prompt_selection", {"prompts": PROMPTS, "metrics": metrics, "selections": selections, "longest": longest})


if __name__ == "__main__":
    main()
