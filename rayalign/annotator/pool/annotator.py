"""One annotator of a pool: a judge and its settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rayalign.annotator.asking.api import AnnotatorInfo
from rayalign.annotator.judges.criteria import BallotJudge
from rayalign.annotator.judges.verdicts import Pair, PairJudge, Scoring, Usage


@dataclass(frozen=True, slots=True)
class PoolAnnotator:
    """One annotator of a pool."""

    name: str
    kind: str
    judge: PairJudge
    scoring: Scoring | None = None
    """where single answers can be scored without noise"""
    ballots: BallotJudge | None = None
    """where single answers are graded by a paid model; in the place of `scoring`"""
    pooled: bool = True
    randomize_order: bool = False
    """show the answers in an order drawn from the instruction"""
    seeded: bool = True
    """whether the request's seed can change a verdict"""
    estimate: Callable[[Sequence[Pair]], Usage] | None = None
    """estimated cost of judging; None: it costs nothing"""
    least: Callable[[Sequence[Pair]], Usage] | None = None
    """least cost of judging; None: as `estimate`"""

    @property
    def info(self) -> AnnotatorInfo:
        """Its entry of GET /v1/annotators."""
        return AnnotatorInfo(
            name=self.name,
            kind=self.kind,
            revision=self.judge.revision,
            scores=self.scoring is not None or self.ballots is not None,
            pooled=self.pooled,
        )
