"""A job as nested mappings that can be changed, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayalign.config import Job

Tree = dict[str, Any]


def as_tree(job: Job) -> Tree:
    """All values of a job."""
    return job.model_dump(mode="json")


def as_job(tree: Tree) -> Job:
    """The job of such values."""
    return Job.model_validate(tree)


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The value with each text that is one of the names replaced, at any depth."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, dict):
        return {key: renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item, names) for item in value]
    return value


def section_at(stage: Tree, key: str) -> tuple[Tree, str]:
    """The mapping that holds a dotted key of a stage, and the key's last part."""
    *path, last = key.split(".")
    holder = stage
    for part in path:
        holder = holder[part]
    return holder, last
