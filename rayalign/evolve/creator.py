"""The creator's choices: which prompts are evolved, and which old and new ones come out (Ye 2024, arXiv 2411.00062).

Shapes: P prompts, K candidates.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rayalign.config import EvolveStage, PriorityConfig
from rayalign.evolve.informativeness import informativeness, sampling_weights, topic_blend
from rayalign.evolve.selection import select
from rayalign.types import Example, Prompt


@dataclass(frozen=True, slots=True)
class Rated:
    """A prompt with what its candidates say of it."""

    prompt: Prompt
    rewards: tuple[float | None, ...]
    value: float | None
    """how much it teaches; None where no reward is there"""
    weight: float


def priority_weights(config: PriorityConfig, rewards: Sequence[tuple[float | None, ...]]) -> list[float]:
    """The weight of each prompt by its candidates' rewards, for an online stage.

    Raises:
        InputError: no reward at all.
    """
    values_P = informativeness(_table(rewards), config.metric)
    weights: list[float] = sampling_weights(values_P, kind=config.weights, floor=config.floor).tolist()
    return weights


def rated(examples: Sequence[Example], stage: EvolveStage) -> list[Rated]:
    """The prompts of scored candidates, each with its value and its weight, which sum to 1.

    Raises:
        InputError: no candidate has a score.
    """
    rewards = [_scores(example) for example in examples]
    values_P = informativeness(_table(rewards), stage.metric)
    weights_P = sampling_weights(values_P, kind=stage.weights, floor=stage.floor)
    if stage.topic_coefficient:
        topics = [example.prompt.meta.get(stage.topic, "") for example in examples]
        weights_P = topic_blend(weights_P, topics, stage.topic_coefficient) * ~np.isnan(values_P)
        weights_P = weights_P / weights_P.sum()
    results = []
    for example, row, value, weight in zip(examples, rewards, values_P, weights_P, strict=True):
        results.append(Rated(example.prompt, row, None if np.isnan(value) else float(value), float(weight)))
    return results


def _table(rewards: Sequence[tuple[float | None, ...]]) -> npt.NDArray[np.float64]:
    """Rewards of each prompt in a row; NaN where one is absent."""
    most = max(map(len, rewards), default=0)
    table_PK = np.full((len(rewards), max(most, 1)), np.nan)
    for place, row in enumerate(rewards):
        table_PK[place, : len(row)] = np.array(row, dtype=np.float64)  # None becomes NaN
    return table_PK


def _scores(example: Example) -> tuple[float | None, ...]:
    return tuple(candidate.score for candidate in example.candidates)


def selected(prompts: Sequence[Rated], stage: EvolveStage, seed: int) -> list[Rated]:
    """The share of the prompts that is evolved; fewer where too few have a score, or a weight that the kind needs."""
    count = max(1, round(stage.fraction * len(prompts)))
    scored = [prompt for prompt in prompts if prompt.value is not None]
    eligible = scored if stage.selection == "stratified" else [prompt for prompt in scored if prompt.weight > 0]
    count = min(count, len(eligible))
    places = select([prompt.weight for prompt in eligible], count, kind=stage.selection, seed=seed)
    return [eligible[place] for place in places]


def mixture(base: Sequence[Prompt], evolved: Sequence[Prompt], share: float, seed: int) -> list[Prompt]:
    """As many prompts as `base` has, in a drawn order: this share of it, else evolved ones.

    Where there are too few evolved prompts, more of the base fill up; so the number of samples never changes.
    """
    rng = random.Random(f"{seed}/mixture")
    of_evolved = min(len(evolved), len(base) - round(share * len(base)))
    prompts = [*rng.sample(evolved, of_evolved), *rng.sample(base, len(base) - of_evolved)]
    rng.shuffle(prompts)
    return prompts
