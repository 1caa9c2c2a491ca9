"""Gold utility and policies without a model, for the tables of an evaluation in the embedded world."""

from __future__ import annotations

from collections.abc import Sequence

from rayalign.data.paddock import baselines, gold
from rayalign.types import Prompt

ANSWERS = {
    "constant": baselines.constant,
    "empty": baselines.empty,
    "copy": baselines.copy,
    "longest": baselines.longest,
    "oracle": gold.oracle,
}


def answers(name: str, prompts: Sequence[Prompt]) -> list[str]:
    """What the named policy says to each prompt."""
    return [ANSWERS[name](prompt) for prompt in prompts]


def gold_utilities(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
    """The true utility of each answer, in [0, 1]."""
    return [gold.utility(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
