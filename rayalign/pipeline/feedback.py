"""Verdicts on answers as rows to train on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from statistics import mean

from rayalign.types import Candidate, Comparison, Example, Prompt


def ranked(comparisons: Iterable[Comparison]) -> list[Example]:
    """The answers to each prompt as one group, each scored by the mean of its verdicts (Borda's count).

    So an answer is read once however many verdicts it has, and verdicts correct each other. Answers never compared are
    ordered by their mean verdicts. Equal means give no order, and missing verdicts add nothing.
    """
    prompts: dict[str, Prompt] = {}
    verdicts: dict[str, dict[Candidate, list[float]]] = {}
    for c in comparisons:
        if c.preference is None:
            continue
        prompts[c.prompt.id] = c.prompt
        answers = verdicts.setdefault(c.prompt.id, {})
        answers.setdefault(_answer(c.first), []).append(2.0 - c.preference)
        answers.setdefault(_answer(c.second), []).append(c.preference - 1.0)
    examples: list[Example] = []
    for key, answers in verdicts.items():
        candidates = (replace(answer, score=mean(scores)) for answer, scores in answers.items())
        examples.append(Example(prompts[key], tuple(candidates)))
    return examples


def _answer(candidate: Candidate) -> Candidate:
    """What was said, whoever said it."""
    return Candidate(candidate.text, turns=candidate.turns)
