"""How a judge fares on pairs judged in both orders: position, gold, what it leaves open, what it costs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from rayalign.annotator.api import PairItem
from rayalign.annotator.connect import Annotator
from rayalign.annotator.judges import RubricUtilities, UtilityJudge
from rayalign.errors import InputError
from rayalign.statistics.intervals import Interval, rate_interval


class JudgeFigures(NamedTuple):
    """Figures in percent of the pairs, with intervals clustered by prompt; None where no pair has the figure."""

    pairs: int
    consistent: Interval | None
    """the same verdict in both orders"""
    prefers_first: Interval | None
    """verdicts for the answer shown first, a tie being half: 50 is no position bias"""
    gold: Interval | None
    """agreement with the gold utility of the embedded world: 100 less the distance of the preferences, where a pair
    whose orders disagree counts as a tie; prompts of other worlds are left out"""
    tied: float
    """in either order a tie"""
    absent: float
    """without a verdict in one of the orders"""
    price: float
    """of 1000 verdicts [US dollars]"""
    seconds: float
    """of 1000 verdicts, where the judge's replies are timed"""
    reasons: dict[str, int]
    """why verdicts are absent, the commonest first"""


def judge_figures(annotator: Annotator, pairs: Sequence[PairItem]) -> JudgeFigures:
    """Ask about every pair, of at least one, in both orders; what has been judged before is not asked again."""
    if not pairs:
        raise InputError("judge: no pairs; give a file with at least one")
    found = list(annotator.annotate(pairs, both_orders=True))
    asked = [(pair.prompt, pair.output_1, pair.output_2) for pair in pairs]
    gold = asyncio.run(UtilityJudge(RubricUtilities(), None, "gold").judge(asked, seed=0))
    prompts, n = [pair.text for pair in pairs], len(pairs)
    meets = [
        None if a.preference is None or g.preference is None else 1.0 - abs(a.preference - g.preference)
        for a, g in zip(found, gold, strict=True)
    ]
    return JudgeFigures(
        n,
        _percent([None if a.consistent is None else float(a.consistent) for a in found], prompts),
        _percent([a.first_shown for a in found], prompts),
        _percent(meets, prompts),
        100 * sum(a.preference == 1.5 and a.consistent is not False for a in found) / n,
        100 * sum(a.preference is None for a in found) / n,
        1000 * sum(a.price for a in found) / (2 * n),
        1000 * sum(a.seconds for a in found) / (2 * n),
        dict(Counter(a.reason or "" for a in found if a.preference is None).most_common()),
    )


def _percent(shares: Sequence[float | None], prompts: Sequence[str]) -> Interval | None:
    if all(share is None for share in shares):
        return None
    return rate_interval([None if share is None else 100 * share for share in shares], prompts, most=100.0)
