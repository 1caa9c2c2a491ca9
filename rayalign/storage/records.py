"""Records as JSON lines. Floats round-trip exactly; NaN and infinity are refused, since JSON has neither."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import to_json

from rayalign.errors import InputError

logger = logging.getLogger(__name__)
T = TypeVar("T")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def encode(record: Any) -> dict[str, Any]:
    """Any dataclass of `rayalign.types` without tensors as a mapping that `json` can write."""
    kind: Any = type(record)
    row: dict[str, Any] = _adapter(kind).dump_python(record)
    return row


def decode(kind: type[T], row: object, where: str = "a record") -> T:
    """The record that `encode` made `row` from.

    Raises:
        InputError: the row is no such record; the message names `where` it stands.
    """
    try:
        record: T = _adapter(cast(Any, kind)).validate_python(row)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"{where}: not a {kind.__name__}: {key}: {first['msg']}. Correct or remove it.") from None
    return record


def dumps(row: object) -> str:
    """One line of JSON, without its line end."""
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise InputError(f"A record cannot be written as JSON: {error}. The record: {str(row)[:200]}") from None


def finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """`row` with NaN and infinity replaced by None, for logs, which must not stop a run."""
    return {name: _finite_or_none(value) for name, value in row.items()}


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_jsonl(path: Path, *, growing: bool = False) -> Iterator[dict[str, Any]]:
    """The rows of a file, split at "\\n" only; `growing` skips a last line that is still being written."""
    return (row for _, row in positioned_jsonl(path, growing=growing))


def positioned_jsonl(path: Path, *, growing: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read_jsonl`, each row with the byte where its line starts."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if growing and not line.endswith(b"\n"):
                return
            if line.strip():
                yield start, _parse(line, f"{path}:{number}")
            start += len(line)


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line, parse_constant=_refuse)
    except ValueError as error:
        raise InputError(f"{where} is not a line of JSON: {error}. Repair or remove the line.") from None
    return row


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def write_jsonl(path: Path, rows: Iterable[object]) -> None:
    """Write mappings or records, one a line, atomically."""
    mappings = (row if isinstance(row, Mapping) else encode(row) for row in rows)
    atomic_write(path, (dumps(row) + "\n" for row in mappings))


def atomic_write(path: Path, parts: Iterable[str]) -> None:
    """Replace the file's text; a kill at any time leaves either the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line(row: Mapping[str, Any]) -> bytes:
    """A row of a log with its line end; a tenth of the time of `json`, which matters for a row of log-probs.

    The encoder writes NaN and infinity, so a line with such a word goes through `dumps`, which refuses the values.
    """
    line = to_json(row, inf_nan_mode="constants") if _is_plain(row) else _line_with_records(row)
    if b"NaN" in line or b"Infinity" in line:
        line = dumps(json.loads(line)).encode()
    return line + b"\n"


def _is_plain(row: Mapping[str, Any]) -> bool:
    """Whether no value of a row is a record."""
    return not any(map(_is_record, map(type, row.values())))


@cache
def _is_record(kind: Any) -> bool:
    return is_dataclass(kind)


def _line_with_records(row: Mapping[str, Any]) -> bytes:
    """A row with records: the encoder of a record's own type is twice as fast as the one for values of any type."""
    fields: list[bytes] = []
    for name, value in row.items():
        kind: Any = type(value)
        if _is_record(kind):
            text = _list_adapter(kind).dump_json([value])[1:-1]
        else:
            text = to_json(value, inf_nan_mode="constants")
        fields.append(to_json(name) + b":" + text)
    return b"{" + b",".join(fields) + b"}"


@cache
def _list_adapter(kind: Any) -> TypeAdapter[Any]:
    """Of a list of records: for a record by itself pydantic has no setting that keeps NaN, and it would write null."""
    return TypeAdapter(list[kind], config=ConfigDict(ser_json_inf_nan="constants"))


class Appender:
    """An append-only file of JSON lines, each one O_APPEND write, which survives a kill of the process.

    If it is not `shared` among processes, opening it removes a line torn by a kill.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        if not shared and cut_torn_line(path):
            logger.warning("%s ended in the middle of a line, which was cut off", path)
        self._file = path.open("ab", buffering=0)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row in one call; its values may be records."""
        self.extend([row])

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write several rows in one call; OSError where the disk has no room for all of them, and none stays."""
        lines = b"".join(map(_line, rows))
        written = self._file.write(lines)
        if written != len(lines):
            self._take_back(written)
            # a partial write raises nothing by itself; this is the error of a write without any room
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def _take_back(self, size: int) -> None:
        """Remove the part that was written, since the next row would be written behind it."""
        end = self._file.tell()
        # otherwise another process has written behind it, and the part has to stay
        if os.fstat(self._file.fileno()).st_size == end:
            os.ftruncate(self._file.fileno(), end - size)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def cut_torn_line(path: Path) -> bool:
    """Remove a last line without its end, left by a kill during a write; returns whether there was one."""
    if not path.exists():
        return False
    end = 0
    with path.open("rb+") as file:
        for line in file:
            end += len(line) if line.endswith(b"\n") else 0
        torn = end < file.tell()
        file.truncate(end)
    return torn
