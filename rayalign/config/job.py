"""A job file: read sparse, merged with what it extends and the command line; each value knows where it came from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rayalign.config.explain import explain, origin_of
from rayalign.config.sections import DataConfig
from rayalign.config.stages import Job, section_of
from rayalign.errors import InputError

COMMAND_LINE = "command line"
DEFAULT = "default"


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `1e-4` is a number, as YAML 1.2 and every user have it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


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


@dataclass(slots=True)
class _Tree:
    """Nested mappings as written, and where each key was."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> LoadedJob:
    """Read a job file, what it extends, and overrides of the form `a.b.c=value` (values are YAML).

    Mappings are merged, anything else is replaced, and `null` for a stage removes an inherited one.

    Raises:
        InputError: one line for each problem.
    """
    path = Path(path)
    tree = _read(path, ())
    for text in overrides:
        _merge(tree, _override(text))
    _inherit_data(tree)
    try:
        job = Job.model_validate(tree.values)
    except ValidationError as error:
        raise InputError("\n".join([*tree.problems, explain(error, Job, str(path), tree.origins)])) from error
    if tree.problems:
        raise InputError("\n".join(tree.problems))
    defaults = {key: DEFAULT for key, _ in _leaves(job.model_dump(mode="json")) if key not in tree.origins}
    return LoadedJob(job, {**tree.origins, **defaults}, path)


def _read(path: Path, chain: tuple[Path, ...]) -> _Tree:
    """A file merged over what it extends."""
    own = _parse(_text(path), str(path))
    where = own.origins.pop("extends", str(path))
    base = own.values.pop("extends", None)
    if base is None:
        return _merge(_Tree(), own)
    if not isinstance(base, str):
        raise InputError(f"{where}: extends is {base!r}; expected the path of one other job file")
    target = path.parent / base
    chain = (*chain, path)
    if target.resolve() in [p.resolve() for p in chain]:
        raise InputError(f"{where}: extends goes round in a circle: {' -> '.join(map(str, (*chain, target)))}")
    if not target.is_file():
        raise InputError(f"{where}: extends {base}, but there is no file {target}")
    return _merge(_read(target, chain), own)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise InputError(f"{path}: the job cannot be read: {reason}") from error


def _parse(text: str, name: str, key: str = "") -> _Tree:
    """One document, placed at a dotted key; `name` becomes the origin, with line numbers unless the command line."""
    loader = _Loader(text)
    tree = _Tree()
    try:
        root = loader.get_single_node() or yaml.ScalarNode("tag:yaml.org,2002:null", "")
        value = _build(root, loader, key, name, tree)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark and not key else ""
        raise InputError(f"{name}{line}: {f'{key} is ' if key else ''}not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{name}: not valid YAML: {error}") from error
    finally:
        loader.dispose()
    for part in reversed(key.split(".") if key else []):
        value = {part: value}
    if not isinstance(value, dict):
        raise InputError(f"{name}: expected a mapping of keys to values at the top")
    tree.values = value
    return tree


def _build(node: yaml.Node, loader: _Loader, key: str, name: str, tree: _Tree) -> Any:
    """The value of a node; origins and duplicate keys go into `tree`."""
    if isinstance(node, yaml.SequenceNode):
        return [_child(item, loader, f"{key}.{i}", name, tree, item) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        # the text itself, so that a stage may be called `on` or `1`
        written = str(key_node.value)
        full = f"{key}.{written}" if key else written
        if written in found:
            tree.problems.append(f"{_origin(key_node, name)}: {full} is given twice; first at {tree.origins[full]}")
        found[written] = _child(value_node, loader, full, name, tree, key_node)
    return found


def _child(node: yaml.Node, loader: _Loader, key: str, name: str, tree: _Tree, at: yaml.Node) -> Any:
    tree.origins[key] = _origin(at, name)
    return _build(node, loader, key, name, tree)


def _origin(node: yaml.Node, name: str) -> str:
    return name if name == COMMAND_LINE else f"{name}:{node.start_mark.line + 1}"


def _override(text: str) -> _Tree:
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or "" in parts:
        raise InputError(f"{COMMAND_LINE}: {text!r} is not an override; write section.key=value")
    full = ".".join(parts)
    tree = _parse(value, COMMAND_LINE, full)
    tree.origins.update({".".join(parts[: i + 1]): COMMAND_LINE for i in range(len(parts))})
    return tree


def _merge(base: _Tree, over: _Tree) -> _Tree:
    """`over` put into `base`, which is returned."""
    base.problems += over.problems
    _merge_mapping(base, over, base.values, over.values, "")
    return base


def _merge_mapping(base: _Tree, over: _Tree, into: dict[str, Any], given: dict[str, Any], prefix: str) -> None:
    for key, value in given.items():
        full = prefix + key
        if prefix == "stages." and value is None:
            if into.pop(key, None) is None:
                base.problems.append(f"{over.origins[full]}: {full} is null, but no stage of that name is inherited")
            _forget(base.origins, full)
            continue
        if isinstance(value, dict):
            if not isinstance(into.get(key), dict):
                _forget(base.origins, full)
                base.origins[full], into[key] = over.origins[full], {}
            _merge_mapping(base, over, into[key], value, f"{full}.")
            continue
        _forget(base.origins, full)
        into[key] = value
        base.origins.update({k: o for k, o in over.origins.items() if k == full or k.startswith(f"{full}.")})


def _forget(origins: dict[str, str], key: str) -> None:
    for old in [k for k in origins if k == key or k.startswith(f"{key}.")]:
        del origins[old]


def _inherit_data(tree: _Tree) -> None:
    """Give each stage the keys of the job's `data` that it does not set itself."""
    shared, stages = tree.values.get("data"), tree.values.get("stages")
    if not isinstance(shared, dict) or not isinstance(stages, dict):
        return
    try:
        DataConfig.model_validate(shared)
    except ValidationError:
        return  # validating the job says so, once
    for name, stage in stages.items():
        if not isinstance(stage, dict) or not _reads_data(stage):
            continue
        own = stage.setdefault("data", {})
        if not isinstance(own, dict):
            continue
        for key in shared.keys() - own.keys():
            own[key] = shared[key]
            tree.origins[f"stages.{name}.data.{key}"] = tree.origins[f"data.{key}"]


def _reads_data(stage: Mapping[str, Any]) -> bool:
    section = section_of(str(stage.get("kind")))
    return section is not None and "data" in section.model_fields


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
