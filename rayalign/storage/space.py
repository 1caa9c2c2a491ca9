"""A full disk, called one whoever met it."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rayalign.errors import ActorError, RayalignError

_FULL = (
    "No space left on device",
    "Disk quota exceeded",
    "unexpected pos",
    "file write failed",
    "iostream error",
    "database or disk is full",
)
"""what the system says, torch's writer of archives and SQLite"""
_CODES = (errno.ENOSPC, errno.EDQUOT)
_LEFT = 1 << 16
"""bytes; with fewer a disk is full, and what cannot be written fails in words of its own"""


@contextmanager
def full_disk_named(folder: Path, setting: str = "`output`") -> Iterator[None]:
    """Turn an error that comes of a full disk, in this process or an actor, into one that says so.

    Args:
        setting: what names the folder.

    Raises:
        RayalignError: what was written under the folder did not fit.
    """
    try:
        yield
    except Exception as error:
        exactly_full = isinstance(error, OSError | ActorError) and _is_full(folder)
        if not (exactly_full or comes_of_full_disk(error)):
            raise
        raise RayalignError(
            f"no space left on {folder}; free space, or name another place as {setting}, "
            "and give the same command again"
        ) from error


def full_disk_place(error: BaseException | None) -> str:
    """Where a file did not fit, for people: its folder, as far as the error names one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _CODES and isinstance(error.filename, str):
            return str(Path(error.filename).parent)
        error = error.__cause__ or error.__context__
    return "a disk that this command writes to"


def _is_full(folder: Path) -> bool:
    """Whether the disk of a folder has no room at all."""
    try:
        return shutil.disk_usage(folder).free < _LEFT
    except OSError:  # the folder is not there
        return False


def comes_of_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what it came of, is that a file did not fit."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _CODES:
            return True
        if any(text in str(error) for text in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
