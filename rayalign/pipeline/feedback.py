"""Verdicts on answers as rows to train on."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean

from rayalign.types import Candidate, Comparison, Example, Prompt


def ranked(comparisons: Iterable[Comparison]) -> list[Example]:
    """The answers to each prompt as one group, each scored by the mean of its verdicts (Borda's count).

    So an answer is read once however many verdicts it has, and verdicts correct each other. Two that were never
    compared are ordered by what was said of them; those scored alike, and comparisons without a verdict, say nothing.
    """
    prompts: dict[str, Prompt] = {}
    found: dict[str, dict[str, list[float]]] = {}
    for c in comparisons:
        if c.preference is None:
            continue
        prompts[c.prompt.id] = c.prompt
        answers = found.setdefault(c.prompt.id, {})
        answers.setdefault(c.first.text, []).append(2.0 - c.preference)
        answers.setdefault(c.second.text, []).append(c.preference - 1.0)
    return [
        Example(prompts[key], tuple(Candidate(text, score=mean(scores)) for text, scores in answers.items()))
        for key, answers in found.items()
    ]
