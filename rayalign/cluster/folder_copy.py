"""Folders of the driver's machine, brought to other machines through Ray's object store.

driver   file -> pieces -> object store, two at a time         other machine   pieces -> hidden folder -> renamed
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayalign.errors import DeadlineError

PIECE = 64 << 20
"""bytes in the object store at a time, of which there are at most two for each machine"""


def copy_folder(folder: Path, node: str, timeout: float) -> None:
    """Make a folder exist on another machine under the same path, with the same files.

    Args:
        node: Ray's id of the machine.
        timeout: seconds until a piece must have been written.

    Raises:
        DeadlineError: the machine took no piece in that time, or went away.
    """
    on_node = NodeAffinitySchedulingStrategy(node, soft=False)
    writer = ray.remote(FolderWriter).options(num_cpus=0, scheduling_strategy=on_node).remote(str(folder))
    try:
        pending: list[ray.ObjectRef] = []
        for name, offset, piece in _pieces(folder):
            pending.append(writer.write.remote(name, offset, ray.put(piece)))
            if len(pending) == 2:
                ray.get(pending.pop(0), timeout=timeout)
        ray.get([*pending, writer.finish.remote()], timeout=timeout)
    except (GetTimeoutError, RayError) as error:
        raise DeadlineError(
            f"{folder} did not reach another machine of the cluster within {timeout:.0f} s for each piece "
            f"({type(error).__name__}); is its disk full?"
        ) from error
    finally:
        ray.kill(writer)


class FolderWriter:
    """An actor that writes one folder, which appears when it is complete."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._hidden = self._folder.with_name(f".{self._folder.name}.copy")
        shutil.rmtree(self._hidden, ignore_errors=True)
        self._hidden.mkdir(parents=True)

    def write(self, name: str, offset: int, piece: bytes) -> None:
        """Write a piece of a file."""
        path = self._hidden / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "wb") as file:
            file.seek(offset)
            file.write(piece)

    def finish(self) -> None:
        """Put the folder in its place."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._hidden.rename(self._folder)


def _pieces(folder: Path) -> Iterator[tuple[str, int, bytes]]:
    """Name, offset and bytes of each piece of each file; an empty file is one empty piece."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        name, offset = path.relative_to(folder).as_posix(), 0
        with path.open("rb") as file:
            while True:
                piece = file.read(PIECE)
                if piece or not offset:
                    yield name, offset, piece
                if len(piece) < PIECE:
                    break
                offset += len(piece)
