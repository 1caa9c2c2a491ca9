"""Paths in a job file are relative to that file; on the command line to where the command starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rayalign.config.tree import Tree

_KEYS = frozenset(
    {
        "chat_template",
        "critic",
        "file",
        "model",
        "pairwise",
        "path",
        "perplexity",
        "reference",
        "reward",
        "source",
        "template",
    }
)
"""keys whose value may name a file or a folder"""
_MAPPINGS = frozenset({"models"})
"""keys of mappings and lists whose values do"""


def resolve_paths(tree: Tree) -> None:
    """Replace each path that exists beside the file in which it is written by the way to it from here.

    What does not exist there stays as it is: a hub name, a preset, a stage, or a path that is relative to where the
    command starts, such as those of the `job.yaml` that a run leaves. `output` always is, since no run belongs beside a
    job file.
    """
    for key, holder, name in list(_named_paths(tree.values, "")):
        origin = tree.origins.get(key, "")
        file, colon, line = origin.rpartition(":")
        text = holder[name]
        if not colon or not line.isdigit() or Path(text).is_absolute():
            continue
        beside = Path(file).parent / text
        if beside.exists():
            holder[name] = os.path.relpath(beside)


def _named_paths(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """Dotted key of each value that may be a path, with what holds it and its place there."""
    for key, value in values.items():
        full = f"{prefix}{key}"
        if isinstance(value, str) and key in _KEYS:
            yield full, values, key
        elif isinstance(value, dict):
            if key in _MAPPINGS:
                yield from ((f"{full}.{name}", value, name) for name, inner in value.items() if isinstance(inner, str))
            yield from _named_paths(value, f"{full}.")
        elif isinstance(value, list):
            yield from _in_list(value, full, key in _MAPPINGS)


def _in_list(values: list[Any], prefix: str, of_paths: bool) -> Iterator[tuple[str, Any, Any]]:
    for number, value in enumerate(values):
        full = f"{prefix}.{number}"
        if isinstance(value, dict):
            yield from _named_paths(value, f"{full}.")
        elif isinstance(value, str) and of_paths:
            yield full, values, number
