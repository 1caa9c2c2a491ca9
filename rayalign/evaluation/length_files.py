"""Coefficients and difficulties of the length control, in AlpacaEval's files."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from rayalign.errors import InputError
from rayalign.evaluation.tables import Annotations
from rayalign.statistics.length_control import Coefficients

_COEFFICIENTS = ("np.tanh(std_delta_len)", "instruction_difficulty", "not_gamed_baseline.astype(float)")


def read_coefficients(path: Path) -> dict[str, Coefficients]:
    """Coefficients of the length model by model, from a CSV with AlpacaEval's columns."""
    coefficients = {}
    for name, row in _csv(path):
        values = [_number(row.get(column), f"{path}: {name}: {column}") for column in _COEFFICIENTS]
        coefficients[name] = Coefficients(*values)
    return coefficients


def read_difficulty(path: Path, annotations: Annotations) -> list[float]:
    """The difficulty of each row's prompt, from a CSV of two columns: the row's number or the instruction, the number.

    Raises:
        InputError: not one difficulty for each row: AlpacaEval's are of its own 805 prompts and fit no other set.
    """
    difficulty = {}
    for name, row in _csv(path, columns=2):
        second_column = list(row.values())[1]
        difficulty[name] = _number(second_column, f"{path}: {name}")
    row_numbers = [str(i) for i in range(len(annotations.rows))]
    keys = row_numbers if list(difficulty) == row_numbers else annotations.prompts
    missing = sum(key not in difficulty for key in keys)
    if missing:
        raise InputError(f"{path}: no difficulty for {missing} of the {len(keys)} rows of {annotations.path}")
    return [difficulty[key] for key in keys]


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
