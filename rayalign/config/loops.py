"""Loops of stages, unrolled while a job is loaded: `ppo` in two rounds becomes `ppo@1` and `ppo@2`.

Inside a round `stage:x` is the x of the same round, and `stage:x@previous` that of the round before. In the first round
`stage:x@previous` is what the loop's `first` says of `x`. Outside its loop `stage:x` is the x of the last round. An
entry `x@2` beside the loop is merged over the x of the second round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from rayalign.config.explain import nearest
from rayalign.config.references import STAGE, Reference
from rayalign.config.tree import Tree, origins_at

LOOP = "loop"
PREVIOUS = "previous"
_INTEGER = TypeAdapter(int)
"""also reads the text `2` and the number 2.0, as the sections of a job do"""
Rewrite = Callable[[str, str], str | None]
"""key and text of a reference -> the text to put in its place; None: leave the key out"""


@dataclass(frozen=True, slots=True)
class RoundChange:
    """An entry `x@2`, which changes a stage of one round."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]


def mark_loops(tree: Tree) -> dict[str, RoundChange]:
    """Name the kind of each loop, and take the changes of single rounds out of the stages.

    A loop may be written without `kind`: an entry that has `rounds` or `stages` is one.
    """
    stages = tree.values.get("stages")
    if not isinstance(stages, dict):
        return {}
    looped: set[str] = set()
    for entry in stages.values():
        if isinstance(entry, dict) and not entry.keys().isdisjoint({"rounds", "stages"}):
            entry.setdefault("kind", LOOP)
            inner = entry.get("stages")
            looped |= set(inner) if isinstance(inner, dict) else set()
    return {name: _take(tree, stages, name) for name in list(stages) if _is_change(name, stages[name], looped)}


def _is_change(name: str, entry: Any, looped: set[str]) -> bool:
    stage, mark, number = name.partition("@")
    return bool(mark) and number.isdigit() and stage in looped and isinstance(entry, dict)


def _take(tree: Tree, stages: dict[str, Any], name: str) -> RoundChange:
    origins = origins_at(tree.origins, f"stages.{name}")
    tree.forget(f"stages.{name}")
    return RoundChange(stages.pop(name), origins)


def unroll(tree: Tree, changes: Mapping[str, RoundChange]) -> None:
    """Put the stages of all rounds in the place of each loop; problems are added to the tree.

    Args:
        tree: a valid job as written.
        changes: what `mark_loops` returned.
    """
    stages: dict[str, Any] = tree.values["stages"]
    loops = {name: entry for name, entry in stages.items() if entry["kind"] == LOOP}
    if not loops:
        return
    for entry in loops.values():
        entry["rounds"] = _INTEGER.validate_python(entry["rounds"])
    unroller = _Unroller(tree, loops)
    tree.values["stages"] = {}
    for name, entry in stages.items():
        if name in loops:
            for number in range(1, entry["rounds"] + 1):
                unroller.add_round(name, number, changes)
        else:
            unroller.add(name, entry, tree.origins, f"stages.{name}", unroller.outside)
    for name in loops:
        tree.forget(f"stages.{name}")
    unroller.refuse_unused(changes)


class _Unroller:
    """The stages of a job's loops, round by round."""

    def __init__(self, tree: Tree, loops: Mapping[str, Any]) -> None:
        self._tree = tree
        self._loops = loops
        self._origins: Mapping[str, str] = tree.origins
        self._last: dict[str, int] = {}
        self._first_origins: dict[str, str] = {}
        for name, entry in loops.items():
            self._count(name, entry)

    def _count(self, loop: str, entry: Mapping[str, Any]) -> None:
        """Remember the last round of each stage of a loop, whose names have to be its own."""
        for name in entry["stages"]:
            if name in self._last or name in self._tree.values["stages"]:
                self._complain(f"stages.{loop}.stages.{name}", "has the name of another stage; rename one of them")
            self._last[name] = entry["rounds"]
        for key in entry.get("first", {}):
            name = key.partition("/")[0]
            if name not in entry["stages"]:
                remedy = nearest(name, list(entry["stages"]))
                self._complain(f"stages.{loop}.first.{key}", f"names no stage of the loop; {remedy}")

    def add_round(self, loop: str, number: int, changes: Mapping[str, RoundChange]) -> None:
        """Add one round of a loop to the tree."""

        def inside(key: str, text: str) -> str | None:
            return self._inside(loop, number, key, text)

        for inner, entry in self._loops[loop]["stages"].items():
            name = f"{inner}@{number}"
            self.add(name, entry, self._tree.origins, f"stages.{loop}.stages.{inner}", inside)
            if name in changes:
                change = changes[name]
                self.add(name, change.values, change.origins, f"stages.{name}", inside)

    def add(
        self, name: str, entry: Mapping[str, Any], origins: Mapping[str, str], source: str, rewrite: Rewrite
    ) -> None:
        """Merge a stage that stands at the key `source` into the stage `name` of the tree."""
        self._first_origins.clear()
        self._origins = origins
        values = self._rewritten(entry, source, rewrite)
        written = origins_at(origins, source) | self._first_origins
        moved = {f"stages.{name}{key.removeprefix(source)}": origin for key, origin in written.items()}
        self._tree.merge_mapping(self._tree.values["stages"], {name: values}, moved, "stages.")

    def outside(self, key: str, text: str) -> str | None:
        """A reference outside the loops: to a stage of a loop, its last round is meant."""
        if not text.startswith(STAGE):
            return text
        reference, version = _split(text)
        if version == PREVIOUS:
            self._complain(key, f"is {text!r}, but @{PREVIOUS} stands only for a stage of the same loop")
        if version or reference.stage not in self._last:
            return text
        return str(Reference(f"{reference.stage}@{self._last[reference.stage]}", reference.role))

    def _inside(self, loop: str, number: int, key: str, text: str) -> str | None:
        reference, version = _split(text)
        if reference.stage not in self._loops[loop]["stages"]:
            return self.outside(key, text)
        if version == PREVIOUS and number == 1:
            return self._first(loop, key, text, reference)
        if version == PREVIOUS:
            number -= 1
        elif version:
            return text
        return str(Reference(f"{reference.stage}@{number}", reference.role))

    def _first(self, loop: str, key: str, text: str, reference: Reference) -> str | None:
        first = self._loops[loop].get("first", {})
        written = str(reference).removeprefix(STAGE)
        if written not in first:
            remedy = f"say in stages.{loop}.first what {written} is then"
            self._complain(key, f"is {text!r}, but there is no round before the first; {remedy}")
            return text
        value: str | None = first[written]
        where = f"stages.{loop}.first.{written}"
        self._first_origins[key] = self._tree.origins[where]
        return self.outside(where, value) if value else None

    def refuse_unused(self, changes: Mapping[str, RoundChange]) -> None:
        """Report changes of rounds that no loop has."""
        for name, change in changes.items():
            stage, _, _ = name.partition("@")
            if name not in self._tree.values["stages"]:
                self._tree.problems.append(
                    f"{change.origins[f'stages.{name}']}: stages.{name}: there is no such round; "
                    f"the last one is {stage}@{self._last[stage]}"
                )

    def _rewritten(self, value: Any, key: str, rewrite: Rewrite) -> Any:
        """A value with its references rewritten, also where they are keys; what becomes None is left out."""
        if isinstance(value, str) and value.startswith(STAGE):
            return rewrite(key, value)
        if isinstance(value, list):
            items = [self._rewritten(item, f"{key}.{i}", rewrite) for i, item in enumerate(value)]
            return [item for item, before in zip(items, value, strict=True) if item is not None or before is None]
        return self._rewritten_mapping(value, key, rewrite) if isinstance(value, dict) else value

    def _rewritten_mapping(self, value: Mapping[str, Any], key: str, rewrite: Rewrite) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for name, before in value.items():
            full = f"{key}.{name}"
            item = self._rewritten(before, full, rewrite)
            if item is None and before is not None:
                continue
            new_name = rewrite(full, name) if name.startswith(STAGE) else name
            if new_name is None:
                remedy = "name a stage or a model in the loop's first, not null"
                self._complain(full, f"has a value, so its key cannot be left out of the first round; {remedy}")
            elif new_name in mapping:
                mapping[new_name] = self._sum(full, new_name, mapping[new_name], item)
            else:
                mapping[new_name] = item
        return mapping

    def _sum(self, key: str, reference: str, first: Any, second: Any) -> Any:
        """The value of two keys that have become the same reference: their weights add up."""
        if isinstance(first, int | float) and isinstance(second, int | float):
            return first + second
        self._complain(key, f"and another key both become {reference}; write one of them, or numbers as their values")
        return first

    def _complain(self, key: str, text: str) -> None:
        origins = self._origins if key in self._origins else self._tree.origins
        line = f"{origins[key]}: {key} {text}"
        if line not in self._tree.problems:  # each round has it
            self._tree.problems.append(line)


def _split(text: str) -> tuple[Reference, str]:
    """A reference without its version, and the version: `previous`, a number or empty."""
    reference = Reference.parse(text)
    assert reference is not None
    stage, _, version = reference.stage.partition("@")
    return Reference(stage, reference.role), version
