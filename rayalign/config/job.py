"""A job file: read sparse, merged with what it extends and the command line; each value knows where it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from rayalign.config.data_sections import MADE_HERE
from rayalign.config.explain import explain, origin_of
from rayalign.config.loops import mark_loops, unroll
from rayalign.config.paths import resolve_paths
from rayalign.config.section import Section
from rayalign.config.stages import Job, WrittenJob, section_of
from rayalign.config.tree import MAPPING, Tree, mapping_tree, override_tree, read_tree
from rayalign.errors import InputError

DEFAULT = "default"
T = TypeVar("T", bound=Section)


@dataclass(frozen=True, slots=True)
class LoadedJob:
    """A validated job, with the origin of each of its values."""

    job: Job
    origins: Mapping[str, str]
    """dotted key -> `file:line`, `command line` or `default`"""
    path: Path

    def origin(self, key: str) -> str:
        """Where a value, or the nearest section around it, was written."""
        written = {k: origin for k, origin in self.origins.items() if origin != DEFAULT}
        return origin_of(key, written, str(self.path))

    def resolved(self) -> str:
        """The whole job as YAML, the origin of each value as a trailing comment; it loads to the same job."""
        lines = [f"# {self.path} with everything it extends, overrides and defaults"]
        return "\n".join([*lines, *_render(self.job.model_dump(mode="json"), self.origins)]) + "\n"


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> LoadedJob:
    """Read a job file, what it extends, and overrides of the form `a.b.c=value` (values are YAML).

    Mappings are merged, anything else is replaced, and `null` for a stage removes an inherited one. Paths in a file are
    relative to it, those of overrides to the working directory. Then each loop is unrolled into the stages of its
    rounds.

    Raises:
        InputError: one line for each problem.
    """
    path = Path(path)
    tree = read_tree(path)
    for text in overrides:
        tree.merge(override_tree(text))
    resolve_paths(tree)
    return _loaded(tree, path)


def job_from_mapping(values: Mapping[str, Any]) -> LoadedJob:
    """As `load_job`, from the same keys in a mapping; its paths are relative to the working directory.

    Raises:
        InputError: one line for each problem.
    """
    return _loaded(mapping_tree(values), Path(MAPPING))


def _loaded(tree: Tree, path: Path) -> LoadedJob:
    rounds = mark_loops(tree)
    _validate(WrittenJob, tree, path)
    unroll(tree, rounds)
    _inherit_data(tree)
    job = _validate(Job, tree, path)
    defaults = {key: DEFAULT for key, _ in _leaves(job.model_dump(mode="json")) if key not in tree.origins}
    return LoadedJob(job, {**tree.origins, **defaults}, path)


def _validate(section: type[T], tree: Tree, path: Path) -> T:
    """The tree as a section.

    Raises:
        InputError: the tree has problems of its own, or the section refuses it.
    """
    problems = list(tree.problems)
    try:
        valid = section.model_validate(tree.values)
    except ValidationError as error:
        problems.append(explain(error, section, str(path), tree.origins))
        raise InputError("\n".join(problems)) from error
    if problems:
        raise InputError("\n".join(problems))
    return valid


def _inherit_data(tree: Tree) -> None:
    """Give each stage, and the objective that it mixes in, the keys of the job's `data` that it does not set itself."""
    shared = tree.values.get("data", {})
    for name, stage in tree.values["stages"].items():
        section = section_of(stage["kind"])
        if section is None or "data" not in section.model_fields:
            continue
        places = {f"stages.{name}.data": stage}
        if isinstance(stage.get("mix"), dict):
            places[f"stages.{name}.mix.data"] = stage["mix"]
        for place, holder in places.items():
            own = holder.setdefault("data", {})
            for key in shared.keys() - own.keys() - _replaced(own):
                own[key] = shared[key]
                tree.origins[f"{place}.{key}"] = tree.origins[f"data.{key}"]


def _replaced(own: Mapping[str, Any]) -> set[str]:
    """Inherited keys that make no sense beside a section's own.

    One data set takes the place of a blend of several, and rows that are made here that of a file.
    """
    if own.get("format") in MADE_HERE and own.get("path") is None:
        return {"blend", "path", "columns"}
    return {"blend"} if own.keys() & {"format", "path", "split"} else set()


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything that is not a filled mapping."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _render(values: Mapping[str, Any], origins: Mapping[str, str], prefix: str = "", indent: str = "") -> Iterator[str]:
    for key, value in values.items():
        full = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield f"{indent}{_inline(key)}:"
            yield from _render(value, origins, f"{full}.", indent + "  ")
        else:
            yield f"{indent}{_inline(key)}: {_inline(value)}  # {origin_of(full, origins, DEFAULT)}"


def _inline(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=float("inf"), allow_unicode=True)
    return text.removesuffix("...\n").strip()
