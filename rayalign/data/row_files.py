"""The rows of one file, read by what it holds: JSON in any layout, CSV, TSV, Parquet."""

from __future__ import annotations

import csv
import gzip
import json
import math
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO, cast

from rayalign.errors import InputError

Row = dict[str, Any]
PlacedRows = Iterator[tuple[Any, str]]

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz")
_POINTER = b"version https://git-lfs"
"""how the text begins that stands in the place of a large file until `git lfs pull`"""
_SEPARATORS = ",;\t"


def file_rows(path: Path) -> Iterator[tuple[Row, str]]:
    """Each row of a file with its place. What is absent is None, also where the file says NaN.

    Raises:
        InputError: a file of another kind, one that is damaged or not there yet, or a malformed row (with its line).
    """
    reader = _reader(path)
    try:
        refuse_pointer(path)
        for row, where in reader(path):
            if not isinstance(row, dict):
                raise InputError(f"{where}: a row must be an object, this is {type(row).__name__}")
            yield row, where
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"data file {path}: cannot be read ({error}); fetch it again") from error


def refuse_pointer(path: Path) -> None:
    """InputError where git-lfs has left a pointer in the place of the file."""
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise InputError(
                f"{path}: is a git-lfs pointer, not the file itself; run `git lfs pull` where it was cloned, or "
                "download the file"
            )


def refuse_half_surrogates(value: Any, where: str) -> None:
    """InputError where a text holds half of a surrogate pair: an emoji cut in two, which no tokenizer reads."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise InputError(
            f"{where}: holds half of a surrogate pair ({ascii(half)}), such as an emoji cut in two; "
            "cut texts between characters, or remove the row"
        ) from error


def without_nan(value: Any) -> Any:
    """A value of a row with None for NaN, which pandas writes where nothing is."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _reader(path: Path) -> Callable[[Path], PlacedRows]:
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"data file {path}: unknown kind of file; known: {', '.join(SUFFIXES)}")
    if path.name.endswith(".parquet"):
        return _parquet_rows
    return _json_rows if ".json" in path.suffixes[-2:] or ".jsonl" in path.suffixes[-2:] else _table_rows


def _open(path: Path, newline: str) -> TextIO:
    if path.name.endswith(".gz"):
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=newline))
    return path.open(encoding="utf-8-sig", newline=newline)


def _json_rows(path: Path) -> PlacedRows:
    """An array, an object a line, or objects over several lines, whatever the file's name."""
    # newline="\n" keeps "\r" and U+2028, which may stand in a JSON string, from ending a line
    with _open(path, "\n") as file:
        skipped, first = 0, ""
        for first in file:
            if first.strip():
                break
            skipped += 1
        opening = first.strip()
        if opening.startswith("["):
            yield from _array_rows(first + file.read(), path, skipped)
        elif opening == "{":
            yield from _spread_rows(first + file.read(), path, skipped)
        else:
            yield from _line_rows(chain([first], file), path, skipped)


def _line_rows(lines: Iterable[str], path: Path, skipped: int) -> PlacedRows:
    for number, line in enumerate(lines, start=skipped + 1):
        if line.strip():
            yield _parse(line, f"{path}:{number}"), f"{path}:{number}"


def _array_rows(text: str, path: Path, skipped: int) -> PlacedRows:
    array = _parse(text, str(path), skipped)
    return ((row, f"{path}: row {number}") for number, row in enumerate(array, start=1))


def _spread_rows(text: str, path: Path, skipped: int) -> PlacedRows:
    """Objects one after another, each over several lines."""
    decoder = json.JSONDecoder(parse_constant=_constant)
    place = len(text) - len(text.lstrip())
    while place < len(text):
        line = skipped + 1 + text.count("\n", 0, place)
        where = f"{path}:{line}"
        try:
            row, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{skipped + error.lineno}: {_fault(error)}") from error
        yield row, where
        while place < len(text) and text[place].isspace():
            place += 1


def _parse(text: str, where: str, skipped: int = 0) -> Any:
    try:
        value = json.loads(text, parse_constant=_constant)
    except json.JSONDecodeError as error:
        has_line = where.rpartition(":")[2].isdigit()
        line = where if has_line else f"{where}:{skipped + error.lineno}"
        raise InputError(f"{line}: {_fault(error)}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
        raise InputError(f"{where}: cannot be read as JSON ({error})") from error
    return value


def _fault(error: json.JSONDecodeError) -> str:
    return f"not JSON ({error.msg}, column {error.colno})"


def _constant(name: str) -> float | None:
    """NaN is how pandas and `json.dump` write what is absent."""
    return None if name == "NaN" else float(name)


def _table_rows(path: Path) -> PlacedRows:
    """CSV or TSV with a header; an empty cell is absent."""
    csv.field_size_limit(sys.maxsize)  # the standard limit, 128 KiB a cell, is shorter than some dialogues
    with _open(path, "") as file:
        header = file.readline()
        if not header.strip():
            return
        separator = max(_SEPARATORS, key=header.count) if ".csv" in path.suffixes else "\t"
        columns = next(csv.reader([header], delimiter=separator))
        reader = csv.DictReader(file, columns, delimiter=separator)
        try:
            for row in reader:
                where = f"{path}:{reader.line_num + 1}"
                if None in row:
                    raise InputError(f"{where}: has more cells than the header; quote cells that hold {separator!r}")
                yield {name: cell or None for name, cell in row.items()}, where
        except csv.Error as error:
            raise InputError(f"{path}:{reader.line_num + 1}: cannot be read as a table ({error})") from error


def _parquet_rows(path: Path) -> PlacedRows:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        for batch in ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield without_nan(row), f"{path}: row {number}"
    except ArrowInvalid as error:
        raise InputError(f"data file {path}: not Parquet ({error}); fetch it again") from error
