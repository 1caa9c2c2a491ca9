"""MT-Bench (Zheng et al. 2023, arXiv 2306.05685): its parsers, its tie rules and its figures.

judgment -> rating, or the winner of each of two swapped games -> rows of the public files -> `single`, `pairwise`
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from rayalign.errors import InputError
from rayalign.statistics.intervals import Interval, rate_interval

T = TypeVar("T")
Row = Mapping[str, Any]
"""a row of a public judgment file"""
Id = int | str
Side = Literal["A", "B", "tie", "error"]

REFERENCE_CATEGORIES = frozenset({"math", "reasoning", "coding"})
"""categories that are judged with a reference answer"""
NO_RATING = -1
"""the score of a judgment without a rating; no mean includes it"""
SCALE = (1.0, 10.0)
TIE_DELTA = 0.1
"""two scores that differ by no more are a tie"""
_MARKS: dict[str, Side] = {"[[A]]": "A", "[[B]]": "B", "[[C]]": "tie"}
"""in the order in which they are looked for"""
_NUMBER = r"(\d+(?:\.\d*)?)"
_RATING_PATTERNS = (re.compile(rf"\[\[{_NUMBER}\]\]"), re.compile(rf"\[{_NUMBER}\]"))
_SCORE_PATTERNS = (re.compile(rf"\[\[{_NUMBER},\s?{_NUMBER}\]\]"), re.compile(rf"\[{_NUMBER},\s?{_NUMBER}\]"))
_PLACES = ({"A": "model_1", "B": "model_2"}, {"A": "model_2", "B": "model_1"})
"""who is shown as A and B in the first and in the second game"""


class Single(NamedTuple):
    """Mean ratings of one model with 95% intervals by question; None where nothing is rated."""

    model: str
    mean: Interval | None
    """over all rated turns, as published"""
    first_turn: Interval | None
    second_turn: Interval | None
    rated: int
    dropped: int
    """judgments without a rating"""


class Pairwise(NamedTuple):
    """One model against its opponents, in judgments of two swapped games each."""

    model: str
    win: int
    loss: int
    tie: int
    n: int
    """judgments without an error"""
    win_rate: float
    loss_rate: float
    adjusted: float
    """(win + tie / 2) / n; NaN without a judgment, as the other rates"""
    errors: int
    """judgments that are left out because a game has no verdict"""
    inconsistent: int
    """ties that are two games with different winners"""
    interval: Interval | None
    """of `adjusted`: 95%, by question"""

    @property
    def win_rate_adjusted(self) -> float:
        """The published name of `adjusted`."""
        return self.adjusted


def rating(judgment: str) -> float:
    """The first number in double brackets, else the first in single brackets, else -1."""
    for pattern in _RATING_PATTERNS:
        if match := pattern.search(judgment):
            return _number(match[1])
    return NO_RATING


def winner(judgment: str, output_format: str = "[[A]]") -> Side:
    """The verdict of one game.

    Args:
        output_format: of the judge's prompt: `[[A]]` (first [[A]], then [[B]], then [[C]] is looked for in the whole
            text) or `[[rating_a,rating_b]]` (two scores, which tie when they differ by at most 0.1).

    Raises:
        InputError: an output format of another kind.
    """
    if output_format == "[[A]]":
        return next((side for mark, side in _MARKS.items() if mark in judgment), "error")
    if output_format != "[[rating_a,rating_b]]":
        raise InputError(f"mt-bench: a pairwise prompt has the output format {output_format!r}; known: [[A]]")
    for pattern in _SCORE_PATTERNS:
        if match := pattern.search(judgment):
            return _higher(_number(match[1]), _number(match[2]))
    return "error"


def winners(first: Side, second: Side) -> tuple[str, str]:
    """The verdicts of two swapped games by the names of the judgment file: model_1, model_2, tie or error."""
    return _PLACES[0].get(first, first), _PLACES[1].get(second, second)


def outcome(row: Row) -> Literal["model_1", "model_2", "tie"] | None:
    """The result of two swapped games: games that disagree are a tie, and a game without a verdict is None."""
    games = _games(row)
    if any(game not in ("model_1", "model_2", "tie") for game in games):
        return None
    return games[0] if games[0] == games[1] else "tie"


def single(judgments: Sequence[Row], model: str) -> Single:
    """The mean ratings of a model, from rows of `<judge>_single.jsonl`.

    Raises:
        InputError: no row is about the model.
    """
    rows = [row for row in judgments if row["model"] == model]
    if not rows:
        raise InputError(f"mt-bench: no judgment is about {model}; look at the names in the judgment file")
    rated = [row for row in rows if row["score"] != NO_RATING]
    first = [row for row in rated if row.get("turn", 1) == 1]
    second = [row for row in rated if row.get("turn", 1) == 2]
    dropped = len(rows) - len(rated)
    return Single(model, _mean(rated), _mean(first), _mean(second), len(rated), dropped)


def pairwise(judgments: Sequence[Row], model: str, *, baseline: str | None = None) -> Pairwise:
    """Wins, losses and ties of a model, from rows of `<judge>_pair.jsonl`; both turns count alike.

    Args:
        baseline: the only opponent that counts; None: all of them.

    Raises:
        InputError: no row is about the model, or about it and the baseline.
    """
    rows = [row for row in judgments if _opponent(row, model) is not None]
    if baseline is not None:
        rows = [row for row in rows if _opponent(row, model) == baseline]
    if not rows:
        against = f" against {baseline}" if baseline else ""
        raise InputError(f"mt-bench: no judgment is about {model}{against}; look at the names in the judgment file")
    results = [_result(row, model) for row in rows]
    win, loss, tie = results.count(1.0), results.count(0.0), results.count(0.5)
    n = win + loss + tie
    questions = [row.get("question_id", number) for number, row in enumerate(rows)]
    interval = rate_interval(results, questions) if n else None
    inconsistent = sum(_games(row)[0] != _games(row)[1] and outcome(row) is not None for row in rows)
    adjusted = _share(win + tie / 2, n)
    rates = (_share(win, n), _share(loss, n), adjusted)
    return Pairwise(model, win, loss, tie, n, *rates, len(rows) - n, inconsistent, interval)


def by_category(
    judgments: Sequence[Row], categories: Mapping[Id, str], measure: Callable[[Sequence[Row]], T]
) -> dict[str, T]:
    """A figure of each category's judgments, in the questions' order; categories without a judgment are left out.

    Args:
        categories: of each question, by its id.
        measure: `single` or `pairwise` of one model.
    """
    rows_by_category: dict[str, list[Row]] = {category: [] for category in categories.values()}
    for row in judgments:
        if row["question_id"] in categories:
            rows_by_category[categories[row["question_id"]]].append(row)
    return {category: measure(rows) for category, rows in rows_by_category.items() if rows}


def _number(text: str) -> float:
    """A whole number stays one, as in the public files; one beyond all floats is no rating."""
    value = float(text)
    if not math.isfinite(value):
        return NO_RATING
    return value if "." in text else int(text)


def _higher(a: float, b: float) -> Side:
    if abs(a - b) <= TIE_DELTA:
        return "tie"
    return "A" if a > b else "B"


def _games(row: Row) -> tuple[Any, Any]:
    """The winner of each game; older files have one winner for both."""
    if "winner" in row:
        return row["winner"], row["winner"]
    return row["g1_winner"], row["g2_winner"]


def _opponent(row: Row, model: str) -> str | None:
    if row["model_1"] == model:
        return str(row["model_2"])
    return str(row["model_1"]) if row["model_2"] == model else None


def _result(row: Row, model: str) -> float | None:
    """1 for a win of the model, 0 for a loss, a half for a tie, None for an error."""
    result = outcome(row)
    if result is None or result == "tie":
        return None if result is None else 0.5
    return float(row[result] == model)


def _mean(rows: Sequence[Row]) -> Interval | None:
    if not rows:
        return None
    scores = [float(row["score"]) for row in rows]
    questions = [row.get("question_id", number) for number, row in enumerate(rows)]
    least, most = min(SCALE[0], *scores), max(SCALE[1], *scores)
    return rate_interval(scores, questions, least=least, most=most)


def _share(part: float, n: int) -> float:
    return part / n if n else math.nan
