"""Checkpoints that exist whole or not at all.

    begin    .iteration-000012.tmp/   every role writes its files here
    commit   the same, with manifest.json written last, then renamed to iteration-000012/

A kill before the rename leaves a hidden folder that `tidy` removes; after it, the checkpoint is complete.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

from rayalign.storage.records import atomic_write, dumps, finite, sync_folder

logger = logging.getLogger(__name__)
Manifest = dict[str, Any]
_MANIFEST = "manifest.json"


class CheckpointStore:
    """The checkpoints of one stage: the last `keep` and the best one.

    One process writes (`tidy`, `begin`, `commit`, `discard`); any number may read at the same time.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._keep = folder, keep

    def begin(self, iteration: int) -> Path:
        """An empty folder that the roles fill, on whichever machine they are."""
        path = self._folder / f".iteration-{iteration:06d}.tmp"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def commit(self, path: Path, manifest: Manifest, is_good: Callable[[Manifest], bool] | None = None) -> Path:
        """Make what was written under `path` (from `begin`) the latest checkpoint; where it is now.

        `score` in the manifest (higher is better) lets a checkpoint become the best; NaN and None never do.

        Args:
            is_good: whether a stage could go back to a checkpoint; the last such one is kept.
        """
        files = {name: _seal(path / name) for name in sorted(_files(path))}
        for folder in [path, *(f for f in path.rglob("*") if f.is_dir())]:
            sync_folder(folder)
        atomic_write(path / _MANIFEST, [dumps({"manifest": finite(manifest), "files": files})])
        target = path.with_name(path.name.removeprefix(".").removesuffix(".tmp"))
        if target.exists():
            # the same iteration, made again after a resume from an earlier one
            target.rename(target.with_name(f".{target.name}.replaced.tmp"))
        path.rename(target)
        sync_folder(self._folder)
        self._point("last", target)
        self._prune(is_good)
        self.tidy()
        return target

    def tidy(self) -> None:
        """Remove what an interruption left uncommitted."""
        for path in self._folder.glob(".iteration-*.tmp"):
            shutil.rmtree(path)

    def latest(self) -> tuple[Path, Manifest] | None:
        """The newest checkpoint whose files are as they were committed, and no others; nothing is removed.

        What a checkpoint holds is read only after this: DeepSpeed's state is a pickle, which runs code when it is read.
        """
        for path in reversed(self._committed()):
            content = json.loads((path / _MANIFEST).read_text())
            damaged = [name for name, seal in content["files"].items() if _damaged(path / name, seal)]
            foreign = _files(path) - content["files"].keys() - {_MANIFEST}
            if not damaged and not foreign:
                return path, content["manifest"]
            names = ", ".join([*damaged, *sorted(foreign)][:5])
            logger.warning("%s is skipped: %s missing, changed or added since it was written", path, names)
        return None

    def discard(self, is_bad: Callable[[Manifest], bool]) -> None:
        """Remove checkpoints by what their manifests hold."""
        for path in self._committed():
            if is_bad(_manifest(path)):
                path.rename(path.with_name(f".{path.name}.discarded.tmp"))
        for name in ("last", "best"):
            (self._folder / name).unlink(missing_ok=True)
        left = self._committed()
        if left:
            self._point("last", left[-1])
        self._point_to_best()
        self.tidy()

    def best(self) -> Path | None:
        """The checkpoint with the highest score, of equals the earliest; None where none has a score."""
        scores: dict[Path, Any] = {path: _manifest(path).get("score") for path in self._committed()}
        return max((p for p in scores if scores[p] is not None), key=lambda p: scores[p], default=None)

    def _committed(self) -> list[Path]:
        return sorted(p for p in self._folder.glob("iteration-*") if (p / _MANIFEST).is_file())

    def _prune(self, is_good: Callable[[Manifest], bool] | None) -> None:
        needed = [self._point_to_best()]
        committed = self._committed()
        if is_good is not None:
            needed += [path for path in committed if is_good(_manifest(path))][-1:]
        for path in committed[: -self._keep]:
            if path not in needed:
                shutil.rmtree(path)

    def _point_to_best(self) -> Path | None:
        best = self.best()
        if best is not None:
            self._point("best", best)
        return best

    def _point(self, name: str, target: Path) -> None:
        """Have the link `name` lead to a checkpoint, for people; nothing here reads it."""
        temporary = self._folder / f".{name}.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.name)
        temporary.replace(self._folder / name)


def _manifest(path: Path) -> Manifest:
    """What the coordinator put into a checkpoint."""
    manifest: Manifest = json.loads((path / _MANIFEST).read_text())["manifest"]
    return manifest


def _files(folder: Path) -> set[str]:
    """Names of all files within, as paths from there."""
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_64).hexdigest()


def _seal(path: Path) -> dict[str, Any]:
    """Make a file durable; its size and checksum."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "xxh3_64": _checksum(path)}


def _damaged(path: Path, seal: dict[str, Any]) -> bool:
    return not path.is_file() or path.stat().st_size != seal["bytes"] or _checksum(path) != seal["xxh3_64"]
