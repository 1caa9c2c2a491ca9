"""The replies about people's labels: agreement of all raters, and win rates of the generators."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rayalign.annotator.asking.bodies import Model


class Cell(Model):
    """Two labellers on the pairs that both gave a verdict on."""

    a: str
    b: str
    n: int
    agreement: float | None
    """share of the same verdict of three: first, tie, second"""
    kappa: float | None
    """Cohen's; None where it is undefined, as between two who always say the same one thing"""
    low: float | None
    """95% interval of kappa, bootstrap over prompts; None below 10 pairs, and where resampling shows no spread"""
    high: float | None


class Fleiss(Model):
    """The agreement of all people, on the pairs that had the commonest number of them."""

    kappa: float | None
    low: float | None
    """as of a `Cell`"""
    high: float | None
    n: int
    raters: int


class AgreementReply(Model):
    """Everyone against everyone; a preference counts as first (below 1.5), tie or second."""

    queue: str
    humans: tuple[str, ...]
    annotators: tuple[str, ...]
    cells: tuple[Cell, ...]
    fleiss: Fleiss | None
    left_out: int = 0
    """raters with the fewest labels, beyond the 100 of a matrix"""


class Rank(Model):
    """How often a generator's answers win, by one judge's verdicts."""

    judge: str
    kind: Literal["human", "annotator"]
    """human: all people together"""
    generator: str
    win_rate: float = Field(description="percent; a tie is half a win")
    low: float
    """95% interval, bootstrap over prompts (Wilson's where all prompts say the same)"""
    high: float
    n: int
    """verdicts"""
