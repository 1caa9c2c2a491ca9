"""The games of Arena-Hard: labels, and the scores and battles that judgments make.

In the first game A is the baseline and B the model; in the second they are swapped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rayalign.errors import InputError
from rayalign.statistics.intervals import Interval

Row = Mapping[str, Any]
"""a row of a public judgment file, of either version"""
Rules = Literal["v0.1", "v2.0"]

LABELS = ("A>>B", "A>B", "A=B", "B>A", "B>>A")
"""the five verdicts of one game"""
BASELINES = {
    "arena-hard-v0.1": "gpt-4-0314",
    "hard_prompt": "o3-mini-2025-01-31",
    "coding": "o3-mini-2025-01-31",
    "math": "o3-mini-2025-01-31",
    "creative_writing": "gemini-2.0-flash-001",
}
"""category -> the published baseline"""
ROUNDS = 100
"""resamples, as published"""
CATEGORY = "arena-hard-v0.1"
"""of rows that name none, as those of v0.1"""
_WINS = {"A>>B": 1.0, "A>B": 1.0, "A=B": 0.5, "B>A": 0.0, "B>>A": 0.0}
_MIRRORED = {"B<<A": "A>>B", "B<A": "A>B", "B=A": "A=B", "A<B": "B>A", "A<<B": "B>>A"}
"""further forms that v2.0 reads"""
_DOUBLE, _SINGLE = re.compile(r"\[\[([AB<>=]+)\]\]"), re.compile(r"\[([AB<>=]+)\]")


class Standing(NamedTuple):
    """One model in a category, in percent of wins against the baseline."""

    model: str
    score: float
    lower: float
    upper: float
    """the published interval, which takes the scores of one prompt for independent: 90% (v2.0) or 95% (v0.1)"""
    interval: Interval | None
    """95%, by prompt; None for the baseline"""
    n: int
    """judgments that count"""
    null: int
    """judgments (v2.0) or games (v0.1) left out, since there is no label"""
    rating: float | None = None
    """v0.1: on Elo's scale, with the baseline at 1000"""


class Battle(NamedTuple):
    """One score of a model against the baseline: 1 a win, 0 a loss, a half for a tie."""

    model: str
    prompt: str | int
    score: float


def label(judgment: str, rules: Rules = "v2.0") -> str | None:
    """The label of one game, or None.

    v2.0 takes the last label in double brackets, else the last one in single brackets, in any case; v0.1 takes a label
    in double brackets if all of them agree.
    """
    if rules == "v0.1":
        labels = set(_DOUBLE.findall(judgment))
        text = labels.pop() if len(labels) == 1 else ""
        return text if text in _WINS else None
    capitals = judgment.upper()
    labels_in_order = _DOUBLE.findall(capitals) or _SINGLE.findall(capitals)
    return _five(labels_in_order[-1]) if labels_in_order else None


def is_open(judgment: str, rules: Rules = "v2.0") -> bool:
    """Whether the judge is asked once more for a label: v0.1 does so where there is none, not where they disagree."""
    if rules == "v0.1":
        return not _DOUBLE.search(judgment)
    return label(judgment, rules) is None


def scores(games: Row | Sequence[Any], *, weight: int = 3) -> list[float]:
    """The scores of two swapped games by the rules of v2.0: 1 for the model, 0 for the baseline, a half for a tie.

    Those of the second game come first. `>>` counts `weight` times. A judgment with a null game has no scores.

    Args:
        games: the `games` of a judgment (each an object with `score`, a label, or None); a whole judgment; or several
            of either, whose scores follow each other.
    """
    if isinstance(games, Mapping):
        return scores(games["games"], weight=weight)
    if not _is_one_judgment(games):
        together: list[float] = []
        for judgment in games:
            together += scores(judgment, weight=weight)
        return together
    first, second = (_five(_label_of(game)) for game in games)
    if first is None or second is None:
        return []
    return _repeated(second, weight) + [1.0 - score for score in _repeated(first, weight)]


def battles(rows: Iterable[Row], *, rules: Rules = "v2.0", weight: int = 3) -> list[Battle]:
    """All scores of judgments; in v0.1 a null game does not take the other one with it."""
    result = []
    for row in rows:
        name, prompt = row["model"], prompt_id(row)
        result += [Battle(name, prompt, score) for score in _scores_of(row, rules, weight)]
    return result


def in_categories(rows: Sequence[Row], categories: Sequence[str] | None) -> dict[str, list[Row]]:
    """The rows of each category; raises InputError for one without a row."""
    rows_by_category: dict[str, list[Row]] = {}
    for row in rows:
        rows_by_category.setdefault(category_of(row), []).append(row)
    if not rows_by_category:
        raise InputError("arena-hard: there is no judgment")
    names = list(rows_by_category) if categories is None else categories
    missing = [name for name in names if name not in rows_by_category]
    if missing:
        listed = ", ".join(rows_by_category)
        raise InputError(f"arena-hard: no judgment is in the category {', '.join(missing)}; known: {listed}")
    return {name: rows_by_category[name] for name in names}


def best_first(entries: Iterable[Standing]) -> list[Standing]:
    """Ordered by score; models without any come last."""
    return sorted(entries, key=lambda entry: math.inf if math.isnan(entry.score) else -entry.score)


def prompt_id(row: Row) -> str | int:
    """The id of a row's prompt, in either schema."""
    identifier: str | int = row["uid"] if "uid" in row else row["question_id"]
    return identifier


def category_of(row: Row) -> str:
    """The row's category; rows of v0.1 have none."""
    return str(row.get("category") or CATEGORY)


def baseline_of(rows: Sequence[Row]) -> str:
    """The one baseline of a category's judgments; where they name none, the published one.

    Raises:
        InputError: several baselines, or an unknown one.
    """
    names = sorted({str(row.get("baseline") or BASELINES.get(category_of(row), "")) for row in rows})
    if len(names) > 1:
        raise InputError(
            f"arena-hard: judgments of one category have the baselines {', '.join(names)}; rate them apart"
        )
    if not names[0]:
        raise InputError(f"arena-hard: judgments of {category_of(rows[0])} name no `baseline`; add it to the rows")
    return names[0]


def count_nulls(rows: Sequence[Row], model: str, rules: Rules) -> tuple[int, int]:
    """How many judgments of a model count, and how many judgments (v2.0) or games (v0.1) have no label."""
    judgments = [row for row in rows if row["model"] == model]
    counted = sum(bool(_scores_of(row, rules, 1)) for row in judgments)
    if rules == "v2.0":
        return counted, len(judgments) - counted
    labels: list[str | None] = []
    for row in judgments:
        labels += map(_label_of, row["games"])
    return counted, sum(text not in _WINS for text in labels)


def _five(text: str | None) -> str | None:
    """A label as one of the five; None for text that is none."""
    five = _MIRRORED.get(text or "", text)
    return five if five in _WINS else None


def _label_of(game: Any) -> str | None:
    """The label of a game as it stands in a file."""
    if isinstance(game, Mapping):
        game = game.get("score")
    return game if isinstance(game, str) else None


def _is_one_judgment(games: Sequence[Any]) -> bool:
    """True for the games of one judgment, false for several judgments or lists of games."""
    is_one = bool(games) and all(_is_game(game) for game in games)
    if is_one and len(games) != 2:
        raise InputError(f"arena-hard: a judgment has two games, this has {len(games)}")
    return is_one


def _is_game(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "games" not in value
    return value is None or isinstance(value, str)


def _repeated(five: str, weight: int) -> list[float]:
    return [_WINS[five]] * (weight if ">>" in five else 1)


def _scores_of(row: Row, rules: Rules, weight: int) -> list[float]:
    if rules == "v2.0":
        return scores(row, weight=weight)
    first, second = (_label_of(game) for game in row["games"])
    of_first = [1.0 - score for score in _repeated(first, weight)] if first in _WINS else []
    of_second = _repeated(second, weight) if second in _WINS else []
    return of_first + of_second
