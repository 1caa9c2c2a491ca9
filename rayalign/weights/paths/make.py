"""A path by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rayalign.weights.buckets import Bucket
from rayalign.weights.paths.base import PathConfig, WeightPath
from rayalign.weights.paths.device import DevicePath
from rayalign.weights.paths.files import FilesPath
from rayalign.weights.paths.store import StorePath


def make_path(config: PathConfig, put: Callable[[Bucket], Any], get: Callable[[Any], Bucket]) -> WeightPath:
    """One end of the path; `put` and `get` are those of the object store."""
    if config.name == "store":
        return StorePath(config, put, get)
    if config.name == "files":
        return FilesPath(config)
    return DevicePath(config)
