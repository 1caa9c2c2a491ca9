"""Who beats whom in the study of personalised soups: by both judges, and all methods among each other by the truth."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.study_page import table
from benchmarks.study_values import Values, model_names
from rayalign.data.paddock import personal
from rayalign.evaluation.baselines import gold_utility
from rayalign.statistics.intervals import rate_interval
from rayalign.storage.records import read_jsonl
from rayalign.types import Prompt

_RATE = re.compile(r"win_rate_by_(?P<judge>.+)_against_(?P<rival>[^@]+)(?:@(?P<profile>.+))?")
_ALL = "all"
Row = Mapping[str, Any]
Key = tuple[int, str]


def read_helpfulness(stage: str, folders: Mapping[int, Path]) -> Values:
    """Gold utility of every answer to the same prompt without its profile."""
    values: Values = {}
    for seed, folder in folders.items():
        for row in read_jsonl(folder / "stages" / stage / "records.jsonl"):
            plain_task = personal.styled_task(row["meta"]["task"], {})
            plain = Prompt(row["prompt_id"], (), {"task": plain_task})
            values.setdefault((seed, row["prompt_id"]), {})[row["model"]] = gold_utility(plain, row["answer"])
    return values


def by_judges(summaries: Mapping[int, Row]) -> list[dict[str, Any]]:
    """Each judge's win rate of each method against each rival, over all profiles and under each of them [%].

    With several seeds the mean, between the lowest and the highest end of their intervals.
    """
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for summary in summaries.values():
        for row in summary["results"]:
            match = _RATE.fullmatch(row["metric"])
            if match and "criterion" not in row:
                key = (match["judge"], match["rival"], row["name"], match["profile"] or _ALL)
                groups.setdefault(key, []).append(row)
    rows = []
    for (judge, rival, model, profile), group in groups.items():
        names = {"judge": judge, "against": rival, "model": model, "profile": profile}
        rows.append({**names, **_over_seeds(group)})
    return rows


def by_criteria(summaries: Mapping[int, Row]) -> list[dict[str, Any]]:
    """Each judge's win rate of each method against each rival by single criteria [%]; over seeds as `by_judges`."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for summary in summaries.values():
        for row in summary["results"]:
            if "criterion" not in row:
                continue
            criterion = row["criterion"]
            match = _RATE.fullmatch(row["metric"].replace(f"_on_{criterion}_against_", "_against_"))
            assert match is not None, row["metric"]
            key = (match["judge"], match["rival"], row["name"], criterion)
            groups.setdefault(key, []).append(row)
    rows = []
    for (judge, rival, model, criterion), group in groups.items():
        names = {"judge": judge, "against": rival, "model": model, "criterion": criterion}
        rows.append({**names, **_over_seeds(group)})
    return rows


def _over_seeds(rows: Sequence[Row]) -> dict[str, float]:
    """The mean of the seeds, between the lowest and the highest end of their intervals."""
    lowest, highest = min(row["low"] for row in rows), max(row["high"] for row in rows)
    return {"mean": fmean(row["mean"] for row in rows), "low": lowest, "high": highest}


def win_matrix(values: Values, cluster: Callable[[Key], Hashable]) -> list[dict[str, Any]]:
    """How often each method's answer is better than that of each other one [%]; a draw is half a win.

    Args:
        cluster: of a seed and prompt, what is resampled as a whole.
    """
    names = model_names(values)
    rows = []
    for model in names:
        for rival in names:
            keys = [key for key, row in values.items() if model in row and rival in row]
            if model == rival or not keys:
                continue
            rates = [_win(values[key][model], values[key][rival]) for key in keys]
            interval = rate_interval(rates, [cluster(key) for key in keys], most=100.0)
            rows.append({"model": model, "against": rival, **interval._asdict()})
    return rows


def _win(ours: float, theirs: float) -> float:
    return 50.0 * (1 + (ours > theirs) - (ours < theirs))


def matrix_table(rows: Sequence[Row], models: Sequence[str]) -> str:
    """Methods by methods, the win rate of the row against the column."""
    rates = {(row["model"], row["against"]): row for row in rows}
    lines = []
    for model in models:
        cells = [_rate(rates.get((model, rival))) for rival in models]
        lines.append([f"`{model}`", *cells])
    return table(["win rate of [%]", *(f"against `{rival}`" for rival in models)], lines)


def judges_table(rows: Sequence[Row], models: Sequence[str]) -> str:
    """A column for each judge and rival, over all profiles."""
    overall = {(row["judge"], row["against"], row["model"]): row for row in rows if row["profile"] == _ALL}
    columns = {(judge, rival): None for judge, rival, _ in overall}
    lines = []
    for model in models:
        cells = [_rate(overall.get((judge, rival, model))) for judge, rival in columns]
        if any(cells):
            lines.append([f"`{model}`", *cells])
    return table(["win rate of [%]", *(f"{judge}: against `{rival}`" for judge, rival in columns)], lines)


def profiles_table(rows: Sequence[Row], model: str) -> str:
    """One method under each profile: a line for each judge and rival."""
    own = [row for row in rows if row["model"] == model and row["profile"] != _ALL]
    profiles = list({row["profile"]: None for row in own})
    rates: dict[tuple[str, str], dict[str, Row]] = {}
    for row in own:
        rates.setdefault((row["judge"], row["against"]), {})[row["profile"]] = row
    lines = []
    for (judge, rival), by_profile in rates.items():
        cells = [_rate(by_profile.get(profile)) for profile in profiles]
        lines.append([f"{judge}: against `{rival}`", *cells])
    return table([f"`{model}` wins [%]", *profiles], lines)


def criteria_tables(rows: Sequence[Row], models: Sequence[str]) -> list[str]:
    """Methods by criteria, a table for each judge and rival."""
    groups: dict[tuple[str, str], dict[tuple[str, str], Row]] = {}
    for row in rows:
        groups.setdefault((row["judge"], row["against"]), {})[row["model"], row["criterion"]] = row
    tables = []
    for (judge, rival), rates in groups.items():
        criteria = list({criterion: None for _, criterion in rates})
        lines = []
        for model in models:
            cells = [_rate(rates.get((model, criterion))) for criterion in criteria]
            if any(cells):
                lines.append([f"`{model}`", *cells])
        tables.append(table([f"{judge}: win rate against `{rival}` on [%]", *criteria], lines))
    return tables


def _rate(row: Row | None) -> str:
    return "" if row is None else f"{row['mean']:.0f} [{row['low']:.0f}, {row['high']:.0f}]"
