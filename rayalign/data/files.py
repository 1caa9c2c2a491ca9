"""Rows of local files and of Hugging Face data sets, each with its place."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from itertools import chain, product, zip_longest
from pathlib import Path
from typing import Any, TextIO, cast

from rayalign.errors import InputError

Row = dict[str, Any]

_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def is_hub_name(path: str) -> bool:
    """True for a name like owner/name, or owner/name:configuration, that is no local path."""
    return not Path(path).exists() and bool(_HUB_NAME.fullmatch(path)) and not path.endswith(_SUFFIXES)


def rows(path: str, split: str) -> Iterator[tuple[Row, str]]:
    """Each row with its place, such as `train.jsonl:17`.

    A file is read whole. Of a folder, the files named `split` in it and in its sub-folders are read by turns, so that
    the first rows are a mixture. A name like owner/name that is no local path is a Hugging Face data set, of which
    owner/name:configuration names one configuration.

    Raises:
        InputError: no such file, a file of another kind, or a malformed row (with its line).
    """
    if is_hub_name(path):
        return _hub_rows(path, split)
    by_turns = zip_longest(*(_file_rows(file) for file in _files(Path(path), split)))
    return (row for row in chain.from_iterable(by_turns) if row is not None)


def _files(path: Path, split: str) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"data path {path}: no such file or folder; correct `data.path`, relative to where you start")
    folders = [path, *sorted(child for child in path.iterdir() if child.is_dir())]
    names = [f"{split}{suffix}" for suffix in _SUFFIXES]
    files = [folder / name for folder, name in product(folders, names) if (folder / name).is_file()]
    if not files:
        raise InputError(
            f"data path {path}: no file for the split {split!r}; it needs {split}.jsonl (or "
            f"{', '.join(_SUFFIXES[1:])}) in it or in a folder below, or name one file as `data.path`"
        )
    return files


def _file_rows(path: Path) -> Iterator[tuple[Row, str]]:
    readers = {".jsonl": _json_lines, ".json": _json_array, ".parquet": _parquet_rows}
    suffix = path.name.removesuffix(".gz")
    reader = next((r for end, r in readers.items() if suffix.endswith(end)), None)
    if reader is None:
        raise InputError(f"data file {path}: unknown kind of file; known: {', '.join(_SUFFIXES)}")
    try:
        for row, where in reader(path):
            if not isinstance(row, dict):
                raise InputError(f"{where}: a row must be an object, this is {type(row).__name__}")
            yield row, where
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"data file {path}: cannot be read ({error}); fetch it again") from error


def _open(path: Path) -> TextIO:
    # newline="\n" keeps "\r" and U+2028, which may stand in a JSON string, from ending a line
    if path.name.endswith(".gz"):
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8", newline="\n"))
    return path.open(encoding="utf-8", newline="\n")


def _json_lines(path: Path) -> Iterator[tuple[Any, str]]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _parse(line, f"{path}:{number}"), f"{path}:{number}"


def _json_array(path: Path) -> Iterator[tuple[Any, str]]:
    with _open(path) as file:
        array = _parse(file.read(), str(path))
    if not isinstance(array, list):
        raise InputError(f"{path}: must hold one JSON array; one object a line is .jsonl")
    return ((row, f"{path}: row {number}") for number, row in enumerate(array, start=1))


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        has_line = where.rpartition(":")[2].isdigit()
        line = where if has_line else f"{where}:{error.lineno}"
        raise InputError(f"{line}: not JSON ({error.msg}, column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
        raise InputError(f"{where}: cannot be read as JSON ({error})") from error


def _parquet_rows(path: Path) -> Iterator[tuple[Any, str]]:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        for batch in ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield row, f"{path}: row {number}"
    except ArrowInvalid as error:
        raise InputError(f"data file {path}: not Parquet ({error}); fetch it again") from error


def _hub_rows(name: str, split: str) -> Iterator[tuple[Row, str]]:
    remedy = "download it and name the folder as `data.path`, or correct the path if a local one was meant"
    try:
        from datasets import load_dataset

        repository, _, configuration = name.partition(":")
        dataset = load_dataset(repository, configuration or None, split=split)
    except ImportError as error:
        raise InputError(f"{name}: no such local path; a Hugging Face data set needs `pip install datasets`") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name}: no such local path, nor a Hugging Face data set in reach ({error}); {remedy}"
        ) from error
    return ((dict(row), f"{name}[{split}]: row {number}") for number, row in enumerate(dataset, start=1))
