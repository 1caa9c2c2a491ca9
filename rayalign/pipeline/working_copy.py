"""A run whose output is a URL works in a local copy, which is sent there while it grows.

begin   download what an earlier run left there, on whichever cluster it ran
work    every minute: files that changed, then those that vouch for them (RemoteFolder.upload)
end     a last time; a copy that could not be sent is kept, and named
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from rayalign.config import LoadedJob
from rayalign.errors import InputError, RayalignError
from rayalign.storage.remote import RemoteFolder, is_url, join

logger = logging.getLogger(__name__)
EVERY = 60.0
"""seconds between two copies: what a machine that is taken away may lose"""
WORK_VARIABLE = "RAYALIGN_WORK"
"""folder for working copies, which all machines of a cluster have to share"""


@contextmanager
def working_copy(loaded: LoadedJob, *, keep: bool = False) -> Iterator[LoadedJob]:
    """The job with a local output; the same job where it has one.

    Args:
        keep: whether the local copy stays at the end.

    Raises:
        InputError: the URL cannot be written.
        RayalignError: at the end, not everything could be sent; it names the copy, which stays then.
    """
    if not is_url(loaded.job.output):
        yield loaded
        return
    work = Path(tempfile.mkdtemp(prefix="rayalign-", dir=os.environ.get(WORK_VARIABLE)))
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, work, ignore_errors=True)
        try:
            with _local(loaded, work) as local:
                yield local
        except _UnsentError:
            undo.pop_all()
            raise
        if keep:
            undo.pop_all()


class _UnsentError(RayalignError):
    """Not everything could be sent; the message names the copy, which must stay."""


@contextmanager
def _local(loaded: LoadedJob, work: Path) -> Iterator[LoadedJob]:
    url = join(loaded.job.output, loaded.job.name)
    folder = work / loaded.job.name
    remote = _open(loaded, url)
    count = remote.download(folder)
    logger.info("%d files of an earlier run came from %s", count, url)
    job = loaded.job.model_copy(update={"output": str(work)})
    origins = {**loaded.origins, "output": f"a copy of {loaded.job.output}"}
    with _Mirror(remote, folder):
        yield replace(loaded, job=job, origins=origins)


def _open(loaded: LoadedJob, url: str) -> RemoteFolder:
    try:
        remote = RemoteFolder(url)
        remote.check_access()
    except InputError as error:
        raise InputError(f"{loaded.origin('output')}: output: {error}") from error
    return remote


class _Mirror:
    """Sends a folder every minute, and once more at the end."""

    def __init__(self, remote: RemoteFolder, folder: Path) -> None:
        self._remote = remote
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, name="mirror", daemon=True)

    def __enter__(self) -> _Mirror:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        self._thread.join()
        try:
            self._remote.upload(self._folder)
        except RayalignError as error:
            raise _UnsentError(
                f"{error}; the run's folder is kept in {self._folder}: copy it there, and run the same command again"
            ) from error

    def _send(self) -> None:
        while not self._stop.wait(EVERY):
            try:
                count = self._remote.upload(self._folder)
            except RayalignError as error:
                logger.warning("%s; the next attempt follows in %.0f s", error, EVERY)
            else:
                logger.debug("%d files sent to %s", count, self._remote.url)
