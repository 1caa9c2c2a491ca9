"""Merged adapters on disk, one for each distinct set of weights; the least recently used one goes first.

    weights -> key of the content -> in the folder?  yes: use it
                                                     no:  room? merge it once, in a thread, for all who wait
                                                          no room: remove the oldest unused one, or wait for a release

A merged adapter stays while requests use it, since the engine may read it again at any step.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from rayalign.config import Profile
from rayalign.errors import DeadlineError, InputError
from rayalign.models.weighted_sums import Mode
from rayalign.rollout.chat import ChatAdapter

FORM: Mode = "delta"
"""base + sum of w_i delta_i, which is exact"""
_LOCK = ".lock"
_REMOVED = ".removed-"
"""start of the name of a folder that is being removed"""


@dataclass(frozen=True)
class CacheState:
    """What the cache has done since it was opened."""

    adapters: int
    limit: int
    merges: int
    evictions: int


@dataclass(eq=False)
class _Entry:
    adapter: ChatAdapter
    merge: asyncio.Task[None] | None
    """None: it was on disk before"""
    users: int = 0

    @property
    def idle(self) -> bool:
        """Nobody uses it, and it is whole."""
        return self.users == 0 and (self.merge is None or self.merge.done())


class MergedAdapters:
    """The merged adapters of one base.

    Args:
        folder: of the cache, which no other process may use meanwhile.
        limit: how many are kept.
        identity: digest of the base, and of each adapter by its preference.
        merge: writes the adapter of a profile to a folder.
        forget: frees the engine's memory of an adapter that is removed.
        timeout: of the wait for room [seconds].

    Raises:
        InputError: another process uses the folder, or it cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        identity: tuple[str, Mapping[str, str]],
        merge: Callable[[Profile, Path], None],
        forget: Callable[[ChatAdapter], None],
        timeout: float,
    ) -> None:
        self._folder = folder
        self._limit = limit
        self._base, self._digests = identity
        self._merge = merge
        self._forget = forget
        self._timeout = timeout
        self._numbers = itertools.count(1)
        self._released = asyncio.Event()
        self._merges = 0
        self._evictions = 0
        self._lock = _locked(folder)
        self._entries = self._found()
        """the least recently used one first"""
        while len(self._entries) > limit:
            self._evict(next(iter(self._entries)))

    @property
    def state(self) -> CacheState:
        """Counts since it was opened."""
        return CacheState(len(self._entries), self._limit, self._merges, self._evictions)

    def close(self) -> None:
        """Leave the folder to other processes."""
        self._lock.close()

    def key(self, profile: Profile) -> str:
        """Of what the merged adapter is made of: base, adapters, weights and form."""
        parts = [[self._digests[name], weight] for name, weight in profile]
        text = json.dumps([self._base, parts, FORM])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @asynccontextmanager
    async def using(self, profile: Profile) -> AsyncIterator[ChatAdapter]:
        """The merged adapter of a profile, which stays within the context.

        Raises:
            InputError: the adapters cannot be merged any more.
            DeadlineError: others used all that are kept.
        """
        key = self.key(profile)
        entry = await self._entry(key, profile)
        entry.users += 1
        try:
            if entry.merge is not None:
                # Shielded: another request may wait for the same merge when this one is cancelled.
                await asyncio.shield(entry.merge)
            yield entry.adapter
        finally:
            entry.users -= 1
            self._released.set()

    async def _entry(self, key: str, profile: Profile) -> _Entry:
        try:
            async with asyncio.timeout(self._timeout):
                while key not in self._entries and not self._has_room():
                    self._released.clear()
                    await self._released.wait()
        except TimeoutError:
            raise DeadlineError(
                f"all {self._limit} merged adapters that are kept were in use for {self._timeout:g} s; send fewer "
                "profiles at once, or start with a higher --merged"
            ) from None
        if key in self._entries:
            return self._touched(key)
        return self._added(key, profile)

    def _has_room(self) -> bool:
        """Whether another one may be kept, after the oldest one that is idle went where they are too many."""
        if len(self._entries) < self._limit:
            return True
        oldest = next((key for key, entry in self._entries.items() if entry.idle), None)
        if oldest is None:
            return False
        self._evict(oldest)
        return True

    def _touched(self, key: str) -> _Entry:
        entry = self._entries.pop(key)
        self._entries[key] = entry
        if entry.merge is None or entry.merge.done():
            os.utime(entry.adapter.folder)  # the order of use outlives the process
        return entry

    def _added(self, key: str, profile: Profile) -> _Entry:
        folder = self._folder / key
        merge = asyncio.create_task(asyncio.to_thread(self._merge, profile, folder))
        merge.add_done_callback(partial(self._settle, key))
        self._entries[key] = _Entry(ChatAdapter(next(self._numbers), str(folder)), merge)
        return self._entries[key]

    def _settle(self, key: str, merge: asyncio.Task[None]) -> None:
        if merge.cancelled() or merge.exception() is not None:
            del self._entries[key]
        else:
            self._merges += 1
        self._released.set()

    def _found(self) -> dict[str, _Entry]:
        """Those of earlier processes, in the order of their last use."""
        folders = [path for path in self._folder.iterdir() if path.is_dir()]
        for path in folders:
            if path.name.startswith("."):  # unfinished
                shutil.rmtree(path)
        whole = [path for path in folders if path.exists()]
        whole.sort(key=lambda path: path.stat().st_mtime_ns)
        return {path.name: _Entry(ChatAdapter(next(self._numbers), str(path)), None) for path in whole}

    def _evict(self, key: str) -> None:
        adapter = self._entries.pop(key).adapter
        # Renamed first, so that a process that ends here leaves no adapter in part.
        removed = self._folder / f"{_REMOVED}{key}"
        Path(adapter.folder).rename(removed)
        shutil.rmtree(removed)
        self._forget(adapter)
        self._evictions += 1


def _locked(folder: Path) -> TextIO:
    """An open file that holds the folder for this process, until it is closed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); give another --cache") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise InputError(f"{folder} is in use by another served policy; give another --cache") from error
    return file
