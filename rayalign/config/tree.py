"""Job files as they are written: nested mappings, and the line where each key was."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rayalign.errors import InputError

COMMAND_LINE = "command line"
MAPPING = "the job"
"""origin of the values of a job that is no file"""
_STAGES = re.compile(r"stages\.([^.]+\.stages\.)?")
"""prefix of the stages of a job, or of a loop"""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `1e-4` is a number, as YAML 1.2 and every user have it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass(slots=True)
class Tree:
    """Nested mappings as written, and where each key was."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    """dotted key -> `file:line` or `command line`"""
    problems: list[str] = field(default_factory=list)

    def merge(self, over: Tree) -> None:
        """Put another tree over this one: mappings are merged, anything else is replaced."""
        self.problems += over.problems
        self.merge_mapping(self.values, over.values, over.origins, "")

    def merge_mapping(
        self, into: dict[str, Any], values: Mapping[str, Any], origins: Mapping[str, str], prefix: str
    ) -> None:
        """Put the values of a mapping at `prefix` over those of `into`, which is a part of this tree."""
        for key, value in values.items():
            full = prefix + key
            if value is None and _STAGES.fullmatch(prefix):
                if into.pop(key, None) is None:
                    self.problems.append(f"{origins[full]}: {full} is null, but no stage of that name is inherited")
                self.forget(full)
            elif isinstance(value, dict):
                if not isinstance(into.get(key), dict):
                    self.forget(full)
                    self.origins[full], into[key] = origins[full], {}
                self.merge_mapping(into[key], value, origins, f"{full}.")
            else:
                self.forget(full)
                into[key] = value
                self.origins.update(origins_at(origins, full))

    def forget(self, key: str) -> None:
        """Drop the origins of a key and of all below it."""
        for old in origins_at(self.origins, key):
            del self.origins[old]


def origins_at(origins: Mapping[str, str], key: str) -> dict[str, str]:
    """The origins of a key and of all below it."""
    return {full: origin for full, origin in origins.items() if full == key or full.startswith(f"{key}.")}


def read_tree(path: Path, chain: tuple[Path, ...] = ()) -> Tree:
    """A file merged over what it extends; `chain` holds the files that extend it.

    Raises:
        InputError: a file cannot be read or is not YAML, or the files extend each other in a circle.
    """
    own = _parse(_text(path), str(path))
    where = own.origins.pop("extends", str(path))
    base = own.values.pop("extends", None)
    tree = Tree()
    if base is not None:
        tree = _read_base(path, base, where, (*chain, path))
    tree.merge(own)
    return tree


def _read_base(path: Path, base: Any, where: str, chain: tuple[Path, ...]) -> Tree:
    if not isinstance(base, str):
        raise InputError(f"{where}: extends is {base!r}; expected the path of one other job file")
    target = path.parent / base
    if target.resolve() in [file.resolve() for file in chain]:
        raise InputError(f"{where}: extends goes round in a circle: {' -> '.join(map(str, (*chain, target)))}")
    if not target.is_file():
        raise InputError(f"{where}: extends {base}, but there is no file {target}")
    return read_tree(target, chain)


def override_tree(text: str) -> Tree:
    """An override of the command line, `a.b.c=value`, where the value is YAML.

    Raises:
        InputError: it has another form.
    """
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or "" in parts:
        raise InputError(f"{COMMAND_LINE}: {text!r} is not an override; write section.key=value")
    tree = _parse(value, COMMAND_LINE, ".".join(parts))
    for depth in range(len(parts)):
        tree.origins[".".join(parts[: depth + 1])] = COMMAND_LINE
    return tree


def mapping_tree(values: Mapping[str, Any]) -> Tree:
    """The tree of a job that is given as a mapping.

    Raises:
        InputError: it holds what no job file could.
    """
    try:
        text = yaml.safe_dump(dict(values), sort_keys=False)
    except yaml.YAMLError as error:
        raise InputError(f"{MAPPING}: holds what no job file could: {error}; give texts, numbers and lists") from error
    tree = _parse(text, MAPPING)
    tree.origins = dict.fromkeys(tree.origins, MAPPING)
    return tree


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise InputError(f"{path}: the job cannot be read: {reason}") from error


def _parse(text: str, name: str, key: str = "") -> Tree:
    """One document, placed at a dotted key; `name` becomes the origin, with line numbers unless the command line."""
    loader = _Loader(text)
    tree = Tree()
    try:
        root = loader.get_single_node() or yaml.ScalarNode("tag:yaml.org,2002:null", "")
        value = _build(root, loader, key, name, tree)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark and not key else ""
        subject = f"{key} is " if key else ""
        raise InputError(f"{name}{line}: {subject}not valid YAML: {error.problem}") from error
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


def _build(node: yaml.Node, loader: _Loader, key: str, name: str, tree: Tree) -> Any:
    """The value of a node; origins and duplicate keys go into `tree`."""
    if isinstance(node, yaml.SequenceNode):
        return [_child(item, loader, f"{key}.{i}", name, tree, item) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        # the text itself, so that a stage may be called `on` or `1`
        written = str(key_node.value)
        full = f"{key}.{written}" if key else written
        if written in mapping:
            tree.problems.append(f"{_origin(key_node, name)}: {full} is given twice; first at {tree.origins[full]}")
        mapping[written] = _child(value_node, loader, full, name, tree, key_node)
    return mapping


def _child(node: yaml.Node, loader: _Loader, key: str, name: str, tree: Tree, at: yaml.Node) -> Any:
    tree.origins[key] = _origin(at, name)
    return _build(node, loader, key, name, tree)


def _origin(node: yaml.Node, name: str) -> str:
    return name if name == COMMAND_LINE else f"{name}:{node.start_mark.line + 1}"
