"""The batch arithmetic of a training in miniature: whole steps of whole units on every rank, as the job has them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rayalign.pipeline.train import TrainKind

LEAST_MINIBATCH = 4
ITERATIONS = 3
"""one before the kill, one after it, and one at the end of the schedule; without those that are written ahead"""
STEPS = 2
"""optimizer steps of an iteration, where the job has several"""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """The sizes of one training."""

    minibatch: int
    ranks: int
    prompts: int = 0
    """of an iteration; 0: offline"""
    candidates: Any = ()
    """as the job writes them"""
    iterations: int = ITERATIONS
    pass_steps: int = 0
    """offline: optimizer steps of one pass over the rows, at most"""


def small_batches(kind: TrainKind, most: int, rows: int) -> Arithmetic:
    """The smallest sizes with which the training still has every unit, rank and step of the job, and uses every row.

    Args:
        most: what is left of a larger count.
        rows: that are to be trained on, as far as the job itself has as many; 0: any number.
    """
    stage = kind.stage
    ranks = {role: min(kind.host(role).actors, most) for role in kind.algorithm.trains}
    candidates, count = _candidates(kind, most)
    unit = {"sequence": 1, "pair": 2, "group": count or 1}[kind.algorithm.unit]
    step = math.lcm(*(unit * number for number in ranks.values()))
    minibatch = step * math.ceil(LEAST_MINIBATCH / step)
    if not stage.online:
        # How many candidates a row has is known for sequences and pairs alone; a step has at least one row.
        rows_of_step = 1 if kind.algorithm.unit == "group" else minibatch // unit
        return Arithmetic(minibatch, max(ranks.values()), pass_steps=math.ceil(rows / rows_of_step))
    # Of what is written ahead, some must still be unscored after the first checkpoint, where the driver is killed.
    iterations = min(stage.iterations, ITERATIONS + min(stage.max_staleness, most))
    minibatch = math.lcm(minibatch, count) if stage.renewal_steps else minibatch
    samples = math.lcm(minibatch, count)
    real_steps = stage.prompts * stage.candidates_per_prompt // stage.learner.minibatch
    steps = min(STEPS, max(real_steps, 1))
    # A mixture by name fixes the steps of an iteration, and with them its prompts.
    prompts = 0 if stage.renewal_steps else min(math.ceil(rows / iterations), stage.prompts)
    samples *= math.ceil(max(steps * minibatch, prompts * count) / samples)
    return Arithmetic(minibatch, max(ranks.values()), samples // count, candidates, iterations)


def _candidates(kind: TrainKind, most: int) -> tuple[Any, int]:
    """The sources of candidates, as the job writes them, and how many candidates a prompt has."""
    stage = kind.stage
    if isinstance(stage.candidates, str):
        mixture = stage.candidates.partition("-")[0]
        return f"{mixture}-{STEPS}", stage.candidates_per_prompt
    sources = []
    fewest = -(-kind.algorithm.fewest_candidates // max(len(stage.candidates), 1))
    for source in stage.candidates:
        written = source.model_dump(mode="json")
        written["count"] = min(source.count, max(most, fewest))
        sources.append(written)
    return sources, sum(source["count"] for source in sources)
