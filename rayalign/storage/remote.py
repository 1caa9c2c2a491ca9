"""Folders at a URL: S3, Google Cloud Storage, or whatever pyarrow opens (`s3://`, `gs://`, `file://`).

Credentials and regions come from where those stores look for them: environment, profiles, the machine's own role. A
query sets what has no other place, such as `s3://BUCKET/runs?endpoint_override=HOST:9000&scheme=http`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rayalign.errors import InputError, RayalignError

SEALS = ("done.json", "manifest.json")
"""files that vouch for others, which have to be there first and go last"""
REMEDY = "check its name and region, and that this process has credentials to list, read, write and delete there"
PIECE = 8 << 20
"""bytes that are copied at a time"""


def is_url(text: str) -> bool:
    """Whether a text names a folder by URL."""
    return "://" in text


def join(url: str, *parts: str) -> str:
    """The URL of something inside a folder; a query stays at the end."""
    folder, mark, query = url.partition("?")
    return "/".join([folder.rstrip("/"), *parts]) + mark + query


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a local file does."""

    size: int
    modified: int
    """[ns]"""


class RemoteFolder:
    """A folder at a URL, and what of a local folder is known to be there."""

    def __init__(self, url: str) -> None:
        """
        Raises:
            InputError: it is no URL of a store that can be opened.
        """
        import pyarrow
        from pyarrow import fs

        self.url = url
        try:
            self._store, self._root = fs.FileSystem.from_uri(url)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise InputError(
                f"{url} cannot be opened: {_reason(error)}; give a URL such as s3://BUCKET/runs"
            ) from error
        if not self._root.strip("/"):
            raise InputError(f"{url} cannot be opened: it names no folder; give a URL such as s3://BUCKET/runs")
        self._sent: dict[str, Stamp] = {}

    def check_access(self) -> None:
        """Write a small file and delete it.

        Raises:
            InputError: the store does not let this process do so.
        """
        path = self._path(f".access-{uuid.uuid4().hex}")
        try:
            self._write(path, [b"rayalign"])
            self._store.delete_file(path)
        except OSError as error:
            raise InputError(f"{self.url} cannot be written: {_reason(error)}; {REMEDY}") from error

    def names(self) -> dict[str, int]:
        """Size of each file by its path inside the folder; empty where there is no folder [bytes]."""
        from pyarrow import fs

        selector = fs.FileSelector(self._root, allow_not_found=True, recursive=True)
        with self._explained():
            files = [info for info in self._store.get_file_info(selector) if info.type == fs.FileType.File]
        return {str(PurePosixPath(info.path).relative_to(self._root)): info.size for info in files}

    def download(self, folder: Path) -> int:
        """Copy everything into a local folder; how many files."""
        names = self.names()
        for name in names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with (
                self._explained(),
                self._store.open_input_stream(self._path(name)) as source,
                target.open("wb") as file,
            ):
                for piece in _pieces(source):
                    file.write(piece)
            self._sent[name] = _stamp(target)
        return len(names)

    def upload(self, folder: Path) -> int:
        """Make the remote folder what a local one is now; how many files were copied.

        Files that vouch for others follow these, so that whoever downloads in the meantime finds nothing half. A file
        that changes or goes while it is copied is copied by the next call.
        """
        seals, others = _split(local_files(folder))
        stamps = others | seals  # in this order
        copied = [name for name, stamp in stamps.items() if self._send(folder, name, stamp)]
        self._forget(stamps)
        return len(copied)

    def _forget(self, here: Mapping[str, Stamp]) -> None:
        """Delete what was sent and is no longer here, first what vouches for others."""
        gone = [name for name in self._sent if name not in here]
        gone.sort(key=lambda name: not _is_seal(name))
        for name in gone:
            with self._explained():
                self._store.delete_file(self._path(name))
            del self._sent[name]

    def _send(self, folder: Path, name: str, stamp: Stamp) -> bool:
        """Copy a file that changed since it was last copied; one that vouches for others only as `stamp` has it."""
        path = folder / name
        try:
            if self._sent.get(name) == stamp or (_is_seal(name) and _stamp(path) != stamp):
                return False
            with path.open("rb") as file, self._explained():
                self._write(self._path(name), _pieces(file))
        except FileNotFoundError:  # it was removed meanwhile
            return False
        self._sent[name] = stamp
        return True

    def _write(self, path: str, pieces: Iterable[bytes]) -> None:
        if self._store.type_name == "local":
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with self._store.open_output_stream(path) as target:
            for piece in pieces:
                target.write(piece)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RayalignError(f"{self.url} did not take or give a file: {_reason(error)}; {REMEDY}") from error


def local_files(folder: Path) -> dict[str, Stamp]:
    """The files of a folder by their path inside it, without links and hidden names, under which files are written."""
    files: dict[str, Stamp] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        unfinished = any(part.startswith(".") for part in name.parts)
        if not unfinished and not path.is_symlink() and path.is_file():
            files[name.as_posix()] = _stamp(path)
    return files


def _split(files: Mapping[str, Stamp]) -> tuple[dict[str, Stamp], dict[str, Stamp]]:
    """The files that vouch for others, and the others."""
    seals = {name: stamp for name, stamp in files.items() if _is_seal(name)}
    others = {name: stamp for name, stamp in files.items() if not _is_seal(name)}
    return seals, others


def _is_seal(name: str) -> bool:
    return PurePosixPath(name).name in SEALS


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return Stamp(status.st_size, status.st_mtime_ns)


def _pieces(file: Any) -> Iterator[bytes]:
    while piece := file.read(PIECE):
        yield piece


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
