"""Annotations and leaderboards in the files and columns of AlpacaEval (github.com/tatsu-lab/alpaca_eval)."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayalign.data.files import Row, rows
from rayalign.errors import InputError, RayalignError
from rayalign.evaluation.run_records import is_measured, pairs_by_value, public_rows
from rayalign.statistics.length_control import joint_difficulty
from rayalign.statistics.winrate import win_rate
from rayalign.storage.records import atomic_write, finite

COLUMNS = (
    "instruction", "dataset", "output_1", "generator_1", "output_2", "generator_2", "annotator", "preference",
    "preference_raw_completion", "preference_price_per_example", "preference_time_per_example",
)  # fmt: skip
"""the order in which they are written"""
_OLD_NAMES = {name.removeprefix("preference_"): name for name in COLUMNS[8:]}
_LEADERBOARD = (
    "win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate", "mode",
    "avg_length", "length_controlled_winrate", "lc_standard_error",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Annotations:
    """The verdicts on one model against one baseline."""

    path: Path
    name: str
    """the model, `generator_2`; without one the file's name"""
    baseline: str
    rows: tuple[Row, ...]

    @property
    def preferences(self) -> list[float | None]:
        """1 baseline, 2 model, 1.5 or 0 a draw, None no verdict."""
        return [row["preference"] for row in self.rows]

    @property
    def prompts(self) -> list[str]:
        """The cluster of each verdict: the instruction with its input."""
        return [prompt_of(row) for row in self.rows]

    def lengths(self, side: int) -> list[int]:
        """Characters of each answer of the baseline (1) or the model (2)."""
        return [len(row[f"output_{side}"]) for row in self.rows]

    def published(self) -> dict[str, Any]:
        """The columns of a leaderboard's row, by their public names.

        Raises:
            InputError: no row has a verdict.
        """
        if all(preference is None for preference in self.preferences):
            raise InputError(f"{self.path}: no row has a verdict on {self.name}; look at the judge's failures")
        length = sum(self.lengths(2)) / len(self.rows)
        return {"name": self.name, **win_rate(self.preferences)._asdict(), "avg_length": int(length)}


def prompt_of(row: Mapping[str, Any]) -> str:
    """The instruction with its input, as AlpacaEval merges them."""
    return f"{row['instruction']}\n\n{row['input']}" if row.get("input") else str(row["instruction"])


def read_annotations(path: Path) -> list[Annotations]:
    """The verdicts of a .json, .jsonl or .gz file, by baseline and model in order of appearance.

    Columns with AlpacaEval's old names are renamed.

    Raises:
        InputError: no such file, an empty one, or a bad or repeated row, which it names.
    """
    by_models: dict[tuple[str, str], list[Row]] = {}
    for row in read_verdicts(path):
        baseline = row.get("generator_1") or "baseline"
        model = row.get("generator_2") or path.name.partition(".")[0]
        by_models.setdefault((baseline, model), []).append(row)
    return [Annotations(path, model, baseline, tuple(rows)) for (baseline, model), rows in by_models.items()]


def read_verdicts(path: Path) -> Iterator[Row]:
    """The checked rows of a file of verdicts; raises the errors of `read_annotations`.

    The answers that an `evaluate` stage measured become verdicts by their values.
    """
    places: dict[tuple[Any, ...], str] = {}
    measured: list[Row] = []
    for record, where in _records(path):
        if is_measured(record):
            measured.append(record)
            continue
        for raw_row in public_rows(record, where):
            row = {_OLD_NAMES.get(name, name): value for name, value in raw_row.items()}
            _check_verdict(row, where)
            first = places.setdefault(_identity(row), where)
            if first is not where:
                raise InputError(f"{where}: repeats {first}; keep one of them, or give each row an `id` of its own")
            yield row
    if measured:
        yield from pairs_by_value(measured, path)


def _check_verdict(row: Row, where: str) -> None:
    optional = [name for name in ("input", "generator_1", "generator_2", "annotator") if row.get(name) is not None]
    check_texts(row, where, ("instruction", "output_1", "output_2", *optional))
    check_preference(row, where)
    if not isinstance(row.get("id"), str | int | None):
        raise InputError(f"{where}: `id` must be text or a whole number, this is {type(row['id']).__name__}")


def _identity(row: Row) -> tuple[Any, ...]:
    """Equal for rows that repeat each other."""
    if row.get("id") is not None:
        return "id", row["id"], row.get("annotator")
    names = ("output_1", "output_2", "generator_1", "generator_2", "annotator")
    return prompt_of(row), *(row.get(name) for name in names)


def read_rows(path: Path) -> Iterator[tuple[Row, str]]:
    """The objects of a local file with their places; records of a run in AlpacaEval's columns.

    Raises:
        InputError: no such file, or an empty one.
    """
    for record, where in _records(path):
        for public in public_rows(record, where):
            yield public, where


def _records(path: Path) -> Iterator[tuple[Row, str]]:
    """The objects of a local file as they are; raises the errors of `read_rows`."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    empty = True
    for row, where in rows(str(path), ""):
        empty = False
        yield row, where
    if empty:
        raise InputError(f"{path}: the file holds no rows")


def paired_preferences(a: Annotations, b: Annotations) -> tuple[list[float | None], list[float | None], list[str]]:
    """Both models' preferences on the prompts that they share, and those prompts.

    Where a prompt repeats, its first rows are paired with each other, then its second rows, and so on.

    Raises:
        InputError: different baselines, or no prompt in common.
    """
    if a.baseline != b.baseline:
        raise InputError(f"{a.name} is compared with {a.baseline}, {b.name} with {b.baseline}: no paired test")
    first, second = _by_prompt(a), _by_prompt(b)
    shared = [key for key in first if key in second]
    if not shared:
        raise InputError(f"{a.path} and {b.path} have no prompt in common: no paired test")
    prompts = [prompt for prompt, _ in shared]
    return [first[key] for key in shared], [second[key] for key in shared], prompts


def difficulty_from_others(run: Annotations, runs: Sequence[Annotations]) -> list[float] | None:
    """Each prompt's difficulty by the other models' verdicts; None where no model has the same baseline and prompts.

    Another file of the same model does not count, because its verdicts would predict the run's own.
    """
    order = {prompt: i for i, prompt in enumerate(run.prompts)}
    rivals = [rival for rival in runs if rival.name != run.name and rival.baseline == run.baseline]
    comparable = [rival for rival in rivals if sorted(rival.prompts) == sorted(order)]
    if not comparable or len(order) < len(run.rows):
        return None
    preferences, lengths = [], []
    for rival in comparable:
        aligned = sorted(rival.rows, key=lambda row: order[prompt_of(row)])
        preferences.append([row["preference"] for row in aligned])
        lengths.append([len(row["output_2"]) for row in aligned])
    return joint_difficulty(preferences, lengths, run.lengths(1))


def _by_prompt(run: Annotations) -> dict[tuple[str, int], float | None]:
    """Preferences by prompt and its count so far."""
    repeats: Counter[str] = Counter()
    preferences = {}
    for row in run.rows:
        prompt = prompt_of(row)
        preferences[prompt, repeats[prompt]] = row["preference"]
        repeats[prompt] += 1
    return preferences


def write_annotations(path: Path, annotations: Sequence[Mapping[str, Any]]) -> None:
    """An annotations.json: known columns first, in AlpacaEval's order; NaN becomes null."""
    ordered = []
    for row in annotations:
        known_columns = {column: row[column] for column in COLUMNS if column in row}
        ordered.append(finite({**known_columns, **row}))
    write_text(path, [json.dumps(ordered, indent=2, ensure_ascii=False, allow_nan=False)])


def write_leaderboard(path: Path, entries: Sequence[Mapping[str, Any]], *, mode: str = "community") -> None:
    """A leaderboard.csv of `Annotations.published` entries, best first; a NaN or missing figure is an empty cell.

    Raises:
        InputError: two entries of one name.
    """
    names = [entry["name"] for entry in entries]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"{path}: a leaderboard has one row for each model; given twice: {', '.join(repeated)}")
    rows: list[dict[str, Any]] = [{"mode": mode, **finite(entry)} for entry in entries]
    present = set().union(*rows)
    columns = [column for column in _LEADERBOARD if column in present]
    order = "length_controlled_winrate" if "length_controlled_winrate" in columns else "win_rate"
    rows.sort(key=lambda row: -math.inf if row.get(order) is None else row[order], reverse=True)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["", *columns])
    for row in rows:
        table.writerow([row["name"], *(row.get(column) for column in columns)])
    write_text(path, [text.getvalue()])


def write_text(path: Path, parts: Iterable[str]) -> None:
    """`atomic_write` to a place that a user named.

    Raises:
        InputError: the file cannot be written.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    try:
        atomic_write(path, parts)
    except OSError as error:
        if isinstance(error, RayalignError):  # the source of the parts timed out
            raise
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); name another place") from error


def check_texts(row: Row, where: str, names: Sequence[str]) -> None:
    """Raises InputError unless these fields of a row are texts."""
    for name in names:
        if not isinstance(row.get(name), str):
            raise InputError(f"{where}: `{name}` must be text, this is {type(row.get(name)).__name__}")


def check_preference(row: Row, where: str) -> None:
    """Raises InputError unless a row has a preference by the convention, or null for none."""
    if "preference" not in row:
        raise InputError(f"{where}: `preference` is missing; a pair without a verdict has null")
    value = row["preference"]
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where}: `preference` must be a number or null, this is {type(value).__name__}")
    if not (value == 0 or 1 <= value <= 2):
        raise InputError(f"{where}: `preference` must be 1 to 2, or 0 for a draw, this is {value}")
