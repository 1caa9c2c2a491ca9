"""Mixed demonstrations: each attribute of each answer is right with a probability of its own."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from rayalign.data.paddock import tasks
from rayalign.data.paddock.compose import compose
from rayalign.data.paddock.splits import prompts
from rayalign.types import Candidate, Example, Prompt

RATES = {
    "correct": 0.6, "complete": 0.45, "safe": 0.6, "brief": 0.68,
    "polite": 0.5, "tone": 0.4, "level": 0.55, "form": 0.5,
}  # fmt: skip
"""attribute -> probability that a demonstration has it right"""


def draw_attributes(rng: random.Random, rates: dict[str, float]) -> dict[str, bool]:
    """Each attribute, independently of the others."""
    return {name: rng.random() < rate for name, rate in rates.items()}


def demonstrations(seed: int, count: int) -> list[Example]:
    """One demonstration for each of `count` prompts of the split `sft`."""
    return list(demonstrated(prompts(seed, "sft", count), seed))


def demonstrated(of: Iterable[Prompt], seed: int) -> Iterator[Example]:
    """One demonstration for each prompt."""
    rng = random.Random(f"{seed}/demonstrations")
    for prompt in of:
        answer = compose(tasks.parse(prompt.meta["task"]), draw_attributes(rng, RATES), rng)
        yield Example(prompt, (Candidate(answer),))


def demonstration_pairs(seed: int, count: int) -> list[tuple[Prompt, str, str]]:
    """Two demonstrations for each of `count` prompts of the split `preference`."""
    rng = random.Random(f"{seed}/pairs")
    pairs = []
    for prompt in prompts(seed, "preference", count):
        task = tasks.parse(prompt.meta["task"])
        first, second = (compose(task, draw_attributes(rng, RATES), rng) for _ in range(2))
        pairs.append((prompt, first, second))
    return pairs
