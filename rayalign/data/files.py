"""Rows of local files and of Hugging Face data sets, each with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

from rayalign.data.row_files import SUFFIXES, file_rows, without_nan
from rayalign.data.row_files import Row as Row
from rayalign.errors import InputError

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(-[0-9a-f]+)?")
"""a file's name as the Hub divides a split: train-00000-of-00002"""
_NUMBER = re.compile(r"\d+")
"""a file's name in a folder named for its split"""
_DEPTH = 2
"""folders below the data path that are searched: data/, or configuration/split/"""


class _Shard(NamedTuple):
    """One file of a split that is divided into several."""

    number: int
    parts: int | None
    """of the split; None where the name does not say"""
    path: Path


def is_hub_name(path: str) -> bool:
    """True for a name like owner/name, or owner/name:configuration, that is no local path."""
    return not Path(path).exists() and bool(_HUB_NAME.fullmatch(path)) and not path.endswith(SUFFIXES)


def rows(path: str, split: str) -> Iterator[tuple[Row, str]]:
    """Each row with its place, such as `train.jsonl:17`.

    A file is read whole. Of a folder, the files named `split` in it and in its sub-folders are read by turns, so that
    the first rows are a mixture; the numbered parts of one file, as the Hub names them, are read in their order. A name
    like owner/name that is no local path is a Hugging Face data set, of which owner/name:configuration names one
    configuration.

    Raises:
        InputError: no such file, a file of another kind, or a malformed row (with its line).
    """
    if is_hub_name(path):
        return _hub_rows(path, split)
    sources = [chain.from_iterable(map(file_rows, files)) for files in _files(Path(path), split)]
    by_turns = zip_longest(*sources)
    return (row for row in chain.from_iterable(by_turns) if row is not None)


def _files(path: Path, split: str) -> list[list[Path]]:
    """The sources of a split: each one file, or the parts of one in their order."""
    if path.is_file():
        return [[path]]
    if not path.is_dir():
        raise InputError(f"data path {path}: no such file or folder; correct `data.path`, relative to where you start")
    sources: list[list[Path]] = []
    for folder in _folders(path):
        sources += _sources(folder, split)
    if not sources:
        raise InputError(
            f"data path {path}: no file for the split {split!r}; it needs {split}.jsonl (or "
            f"{', '.join(SUFFIXES[1:])}, or parts such as {split}-00000-of-00002.parquet) in it or in a folder below, "
            f"or name one file as `data.path`; {_what_is_there(path)}"
        )
    return sources


def _folders(path: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """The folder and those below it that may hold rows, each before what it holds."""
    yield path
    if not depth:
        return
    for child in sorted(path.iterdir()):
        if child.is_dir() and not child.name.startswith("."):
            yield from _folders(child, depth - 1)


def _sources(folder: Path, split: str) -> list[list[Path]]:
    named_files = [folder / f"{split}{suffix}" for suffix in SUFFIXES]
    sources = [[file] for file in named_files if file.is_file()]
    shards = sorted(filter(None, (_shard(file, split) for file in folder.iterdir())))
    if shards:
        _refuse_missing(folder, shards)
        sources.append([shard.path for shard in shards])
    return sources


def _shard(file: Path, split: str) -> _Shard | None:
    stem = _stem(file)
    if stem is None or not file.is_file():
        return None
    if file.parent.name == split and _NUMBER.fullmatch(stem):
        return _Shard(int(stem), None, file)
    match = _SHARD.fullmatch(stem)
    if match is None or match[1] != split:
        return None
    return _Shard(int(match[2]), int(match[3]), file)


def _stem(file: Path) -> str | None:
    """The name without what says the kind of file; None for a file of another kind."""
    matching = [suffix for suffix in SUFFIXES if file.name.endswith(suffix)]
    return file.name.removesuffix(max(matching, key=len)) if matching else None


def _refuse_missing(folder: Path, shards: Sequence[_Shard]) -> None:
    counts = {shard.parts for shard in shards if shard.parts is not None}
    numbers = {shard.number for shard in shards}
    for count in counts:
        missing = sorted(set(range(count)) - numbers)
        if missing:
            raise InputError(
                f"data path {folder}: {len(missing)} of the {count} parts beside {shards[0].path.name} are missing, "
                f"number {missing[0]} among them; finish the download"
            )


def _what_is_there(path: Path) -> str:
    files: list[str] = []
    for folder in _folders(path):
        for file in sorted(folder.iterdir()):
            if _stem(file) is not None:
                files.append(str(file.relative_to(path)))
    if not files:
        return "there is no file of rows in it"
    return f"there are {', '.join(files[:4])}{', ...' if len(files) > 4 else ''}"


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
    return ((without_nan(dict(row)), f"{name}[{split}]: row {number}") for number, row in enumerate(dataset, start=1))
