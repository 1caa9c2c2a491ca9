"""A judge on pairs in both orders: position bias, agreement with gold, absent verdicts, and its price."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from rayalign.annotator.asking.api import PairItem
from rayalign.annotator.asking.connect import Annotator
from rayalign.annotator.judges.utility import RubricUtilities, UtilityJudge
from rayalign.errors import InputError
from rayalign.statistics.intervals import Interval, rate_interval


class JudgeFigures(NamedTuple):
    """Figures in percent of the pairs, with intervals clustered by prompt; None where no pair has the figure."""

    pairs: int
    consistent: Interval | None
    """the same verdict in both orders"""
    prefers_first: Interval | None
    """verdicts for the answer shown first, where a tie counts half: 50 is no position bias"""
    gold: Interval | None
    """agreement with the gold utility of the embedded world: 100 less the distance of the preferences, where a pair
    whose orders disagree counts as a tie; prompts of other worlds are left out"""
    tied: float
    """a tie in either order"""
    absent: float
    """without a verdict in one of the orders"""
    price: float
    """of 1000 verdicts [US dollars]"""
    seconds: float
    """of 1000 verdicts, where the judge's replies are timed"""
    reasons: dict[str, int]
    """why verdicts are absent, the commonest first"""


def judge_figures(annotator: Annotator, pairs: Sequence[PairItem]) -> JudgeFigures:
    """Judge every pair in both orders; verdicts that the annotator has cached are not requested again.

    Raises:
        InputError: no pair.
    """
    if not pairs:
        raise InputError("judge: no pairs; give a file with at least one")
    annotations = list(annotator.annotate(pairs, both_orders=True))
    prompts, n = [pair.text for pair in pairs], len(pairs)
    consistent = [None if a.consistent is None else float(a.consistent) for a in annotations]
    ties = [a for a in annotations if a.preference == 1.5 and a.consistent is not False]
    absent = [a for a in annotations if a.preference is None]
    reasons = Counter(a.reason or "" for a in absent)
    return JudgeFigures(
        n,
        _percent(consistent, prompts),
        _percent([a.first_shown for a in annotations], prompts),
        _percent(_closeness([a.preference for a in annotations], _gold_preferences(pairs)), prompts),
        100 * len(ties) / n,
        100 * len(absent) / n,
        1000 * sum(a.price for a in annotations) / (2 * n),
        1000 * sum(a.seconds for a in annotations) / (2 * n),
        dict(reasons.most_common()),
    )


def _gold_preferences(pairs: Sequence[PairItem]) -> list[float | None]:
    questions = [(pair.prompt, pair.output_1, pair.output_2) for pair in pairs]
    gold = UtilityJudge(RubricUtilities(), None, "gold")
    return [verdict.preference for verdict in asyncio.run(gold.judge(questions, seed=0))]


def _closeness(a: Sequence[float | None], b: Sequence[float | None]) -> list[float | None]:
    return [None if x is None or y is None else 1.0 - abs(x - y) for x, y in zip(a, b, strict=True)]


def _percent(shares: Sequence[float | None], prompts: Sequence[str]) -> Interval | None:
    if all(share is None for share in shares):
        return None
    percents = [None if share is None else 100 * share for share in shares]
    return rate_interval(percents, prompts, most=100.0)
