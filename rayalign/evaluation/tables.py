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
from rayalign.statistics.length_control import Coefficients, joint_difficulty
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
_COEFFICIENTS = ("np.tanh(std_delta_len)", "instruction_difficulty", "not_gamed_baseline.astype(float)")


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
        """What verdicts share their chance by: the instruction with its input."""
        return [prompt_of(row) for row in self.rows]

    def lengths(self, side: int) -> list[int]:
        """Characters of each answer of the baseline (1) or the model (2)."""
        return [len(row[f"output_{side}"]) for row in self.rows]

    def published(self) -> dict[str, Any]:
        """The columns of a leaderboard's row, by their public names; InputError without any verdict."""
        if all(preference is None for preference in self.preferences):
            raise InputError(f"{self.path}: no row has a verdict on {self.name}; look at the judge's failures")
        length = sum(self.lengths(2)) / len(self.rows)
        return {"name": self.name, **win_rate(self.preferences)._asdict(), "avg_length": int(length)}


def prompt_of(row: Mapping[str, Any]) -> str:
    """The instruction with its input, as AlpacaEval merges them."""
    return f"{row['instruction']}\n\n{row['input']}" if row.get("input") else str(row["instruction"])


def read_annotations(path: Path) -> list[Annotations]:
    """The verdicts of a .json, .jsonl or .gz file, by baseline and model in order of appearance; old names come as new.

    Raises:
        InputError: no such file, an empty one, or a bad or repeated row, which it names.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    for row in read_verdicts(path):
        names = row.get("generator_1") or "baseline", row.get("generator_2") or path.name.partition(".")[0]
        found.setdefault(names, []).append(row)
    return [Annotations(path, model, baseline, tuple(kept)) for (baseline, model), kept in found.items()]


def read_verdicts(path: Path) -> Iterator[Row]:
    """The checked rows of a file of verdicts; what `read_annotations` raises."""
    seen: dict[tuple[Any, ...], str] = {}
    for row, where in read_rows(path):
        row = {_OLD_NAMES.get(name, name): value for name, value in row.items()}
        given = (c for c in ("input", "generator_1", "generator_2", "annotator") if row.get(c) is not None)
        check_texts(row, where, ("instruction", "output_1", "output_2", *given))
        check_preference(row, where)
        if not isinstance(row.get("id"), str | int | None):
            raise InputError(f"{where}: `id` must be text or a whole number, this is {type(row['id']).__name__}")
        content = prompt_of(row), *(row.get(c) for c in ("output_1", "output_2", "generator_1", "generator_2"))
        key = ("id", row["id"]) if row.get("id") is not None else content
        first = seen.setdefault((*key, row.get("annotator")), where)
        if first is not where:
            raise InputError(f"{where}: repeats {first}; keep one of them, or give each row an `id` of its own")
        yield row


def read_rows(path: Path) -> Iterator[tuple[Row, str]]:
    """The objects of a local file with their places; InputError for none at all."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    empty = True
    for found in rows(str(path), ""):
        empty = False
        yield found
    if empty:
        raise InputError(f"{path}: the file holds no rows")


def paired_preferences(a: Annotations, b: Annotations) -> tuple[list[float | None], list[float | None], list[str]]:
    """Both models' preferences on the prompts that they share, and those prompts; n-th rows of a prompt go together.

    Raises:
        InputError: different baselines, or no prompt in common.
    """
    if a.baseline != b.baseline:
        raise InputError(f"{a.name} is compared with {a.baseline}, {b.name} with {b.baseline}: no paired test")
    ours, theirs = _by_prompt(a), _by_prompt(b)
    shared = [key for key in ours if key in theirs]
    if not shared:
        raise InputError(f"{a.path} and {b.path} have no prompt in common: no paired test")
    return [ours[key] for key in shared], [theirs[key] for key in shared], [prompt for prompt, _ in shared]


def difficulty_from_others(run: Annotations, runs: Sequence[Annotations]) -> list[float] | None:
    """Each prompt's difficulty by the other models' verdicts; None where no other has the same baseline and prompts.

    Another file of the same model is no other model: its verdicts would foretell the run's own.
    """
    order = {prompt: i for i, prompt in enumerate(run.prompts)}
    rivals = [o for o in runs if o.name != run.name and o.baseline == run.baseline]
    others = [o for o in rivals if sorted(o.prompts) == sorted(order)]
    if not others or len(order) < len(run.rows):
        return None
    aligned = [sorted(o.rows, key=lambda row: order[prompt_of(row)]) for o in others]
    preferences = [[row["preference"] for row in rows] for rows in aligned]
    lengths = [[len(row["output_2"]) for row in rows] for rows in aligned]
    return joint_difficulty(preferences, lengths, run.lengths(1))


def _by_prompt(run: Annotations) -> dict[tuple[str, int], float | None]:
    seen: Counter[str] = Counter()
    found = {}
    for row in run.rows:
        prompt = prompt_of(row)
        found[prompt, seen[prompt]] = row["preference"]
        seen[prompt] += 1
    return found


def write_annotations(path: Path, annotations: Sequence[Mapping[str, Any]]) -> None:
    """An annotations.json: known columns first, in AlpacaEval's order; a figure that is NaN becomes null."""
    ordered = [{**{c: row[c] for c in COLUMNS if c in row}, **row} for row in annotations]
    write_text(path, [json.dumps([finite(row) for row in ordered], indent=2, ensure_ascii=False, allow_nan=False)])


def write_leaderboard(path: Path, entries: Sequence[Mapping[str, Any]], *, mode: str = "community") -> None:
    """A leaderboard.csv of `Annotations.published` entries, best first; a figure that is NaN or missing stays empty.

    Raises:
        InputError: two entries of one name.
    """
    names = [entry["name"] for entry in entries]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise InputError(f"{path}: a leaderboard has one row for each model; given twice: {', '.join(twice)}")
    filled = [{"mode": mode, **finite(entry)} for entry in entries]
    columns = [c for c in _LEADERBOARD if any(c in entry for entry in filled)]
    order = "length_controlled_winrate" if "length_controlled_winrate" in columns else "win_rate"
    filled.sort(key=lambda entry: -math.inf if entry.get(order) is None else entry[order], reverse=True)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["", *columns])
    table.writerows([entry["name"], *(entry.get(c) for c in columns)] for entry in filled)
    write_text(path, [text.getvalue()])


def write_text(path: Path, parts: Iterable[str]) -> None:
    """`atomic_write` to a place that a user named; InputError where nothing can be written."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    try:
        atomic_write(path, parts)
    except OSError as error:
        if isinstance(error, RayalignError):  # what made the parts ran out of time
            raise
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); name another place") from error


def read_coefficients(path: Path) -> dict[str, Coefficients]:
    """Coefficients of the length model by model, from a CSV with AlpacaEval's columns."""
    return {
        name: Coefficients(*(_number(row.get(c), f"{path}: {name}: {c}") for c in _COEFFICIENTS))
        for name, row in _csv(path)
    }


def read_difficulty(path: Path, annotations: Annotations) -> list[float]:
    """The difficulty of each row's prompt, from a CSV of two columns: the row's number or the instruction, the number.

    Raises:
        InputError: not one difficulty for each row: AlpacaEval's are of its own 805 prompts and fit no other set.
    """
    found = {name: _number(list(row.values())[1], f"{path}: {name}") for name, row in _csv(path, columns=2)}
    by_number = list(found) == [str(i) for i in range(len(annotations.rows))]
    keys = list(found) if by_number else annotations.prompts
    missing = sum(key not in found for key in keys)
    if missing:
        raise InputError(f"{path}: no difficulty for {missing} of the {len(keys)} rows of {annotations.path}")
    return [found[key] for key in keys]


def _csv(path: Path, columns: int = 1) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row of a CSV by its first column."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, restval="", restkey="")
            if len(reader.fieldnames or ()) < columns:
                raise InputError(f"{path}: needs a header with {columns} columns")
            for row in reader:
                yield str(next(iter(row.values()))), row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from error


def _number(text: str | None, where: str) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: {text!r} is not a finite number")
    return number


def check_texts(row: Row, where: str, names: Sequence[str]) -> None:
    """InputError unless these fields of a row are texts."""
    for name in names:
        if not isinstance(row.get(name), str):
            raise InputError(f"{where}: `{name}` must be text, this is {type(row.get(name)).__name__}")


def check_preference(row: Row, where: str) -> None:
    """InputError unless a row has a preference by the convention, or null for none."""
    if "preference" not in row:
        raise InputError(f"{where}: `preference` is missing; a pair without a verdict has null")
    value = row["preference"]
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where}: `preference` must be a number or null, this is {type(value).__name__}")
    if not (value == 0 or 1 <= value <= 2):
        raise InputError(f"{where}: `preference` must be 1 to 2, or 0 for a draw, this is {value}")
