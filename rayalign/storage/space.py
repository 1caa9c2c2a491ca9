"""A full disk, called one whoever met it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rayalign.errors import RayalignError

_FULL = ("No space left on device", "Disk quota exceeded", "unexpected pos")
"""what the system says, and torch's writer of archives"""


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Turn an error that comes of a full disk, in this process or an actor, into one that says so.

    Raises:
        RayalignError: what was written under the folder did not fit.
    """
    try:
        yield
    except Exception as error:
        if not comes_of_full_disk(error):
            raise
        raise RayalignError(
            f"no space left on {folder}; free space, or name another place as `output`, and give the same command again"
        ) from error


def comes_of_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what it came of, is that a file did not fit."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(text in str(error) for text in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
