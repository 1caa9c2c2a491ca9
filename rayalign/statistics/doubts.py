"""What speaks against a figure, in words: of a reward model on held-out pairs, of the answers that were judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

CHANCE = 0.5
CUT, LENGTH, REPETITION = "answers_cut", "answer_tokens", "answer_repetition"
"""metrics of a model's answers: share that a limit cut, mean tokens, share of runs of tokens that stood there before"""
ANSWER_METRICS = (CUT, LENGTH, REPETITION)
MOST_CUT = 0.5
MOST_REPETITION = 0.3
SHORTEST = 1 / 3
"""of the length of the first model's answers"""
Row = Mapping[str, Any]


class Doubt(NamedTuple):
    """Why a win rate may not mean what it says."""

    short: str
    """for a place beside the figure"""
    sentence: str


def reward_doubts(results: Sequence[Row]) -> dict[str, list[str]]:
    """Sentences on each reward model whose figures give no reason to trust it, by name.

    Args:
        results: rows {name, metric, mean, low, high, n} of a summary; `reward_accuracy` is the share of held-out pairs
            that the model orders as they were annotated, `reward_longer_accuracy` the share in which the longer answer
            is the better one.
    """
    shares = {(row["name"], row["metric"]): row for row in results}
    doubts: dict[str, list[str]] = {}
    for (name, metric), row in shares.items():
        if metric == "reward_accuracy" and row["mean"] is not None:
            sentences = list(_doubts(row, shares.get((name, "reward_longer_accuracy"))))
            if sentences:
                doubts[name] = sentences
    return doubts


def _doubts(own: Row, longer: Row | None) -> Iterator[str]:
    name, mean, low, high = own["name"], own["mean"], own["low"], own["high"]
    if low is not None and low <= CHANCE:
        verdict = "which is worse than chance" if high < CHANCE else "which may be chance"
        yield f"{name} orders {mean:.0%} of the held-out pairs as annotated ({low:.0%} to {high:.0%}), {verdict}."
    if longer is not None and longer["mean"] is not None and mean <= longer["mean"]:
        yield (
            f"{name} orders {mean:.0%} of the held-out pairs correctly; "
            f"always preferring the longer answer orders {longer['mean']:.0%}."
        )


def answer_doubts(results: Sequence[Row]) -> dict[str, list[Doubt]]:
    """What is wrong with the answers of each model whose figures rest on them, by the model's name.

    Args:
        results: rows of a summary; the lengths are compared with those of the first model that has any.
    """
    figures: dict[str, dict[str, float]] = {}
    for row in results:
        if row["metric"] in ANSWER_METRICS and row["mean"] is not None:
            figures.setdefault(row["name"], {})[row["metric"]] = row["mean"]
    first = next(iter(figures), "")
    doubts: dict[str, list[Doubt]] = {}
    for name, own in figures.items():
        own_doubts = list(_answer_doubts(name, own, first, figures[first]))
        if own_doubts:
            doubts[name] = own_doubts
    return doubts


def short_notes(results: Sequence[Row]) -> dict[str, str]:
    """What is wrong with the answers of each model, in few words for a place beside a figure."""
    notes: dict[str, str] = {}
    for name, doubts in answer_doubts(results).items():
        notes[name] = ", ".join(doubt.short for doubt in doubts)
    return notes


def _answer_doubts(name: str, own: Mapping[str, float], first: str, reference: Mapping[str, float]) -> Iterator[Doubt]:
    cut, length, repeated = own.get(CUT, 0.0), own.get(LENGTH), own.get(REPETITION, 0.0)
    if cut > MOST_CUT:
        yield Doubt(
            f"{cut:.0%} cut",
            f"{name}: {cut:.0%} of the answers were cut by the limit of tokens, so unfinished texts were judged.",
        )
    usual = reference.get(LENGTH)
    if length is not None and usual is not None and length < SHORTEST * usual:
        yield Doubt(
            f"{length:.1f} tokens long",
            f"{name}: the length of the answers collapsed to {length:.1f} tokens; {first} has {usual:.1f}.",
        )
    if repeated > MOST_REPETITION:
        yield Doubt(
            f"{repeated:.0%} repeated",
            f"{name}: {repeated:.0%} of the answers' runs of three tokens repeat an earlier one of the same answer.",
        )
