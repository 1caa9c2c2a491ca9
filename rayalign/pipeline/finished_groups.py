"""The file of the groups that a stage has drawn so far, by which an interrupted stage draws only the others."""

from __future__ import annotations

from pathlib import Path

from rayalign.coordinator.groups import GroupResult
from rayalign.storage.records import Appender, decode, read_jsonl
from rayalign.types import Group


class FinishedGroups:
    """The groups of each model, appended as they come; one that failed is drawn again after an interruption.

    The folder of a stage whose settings changed is cleared before it begins, so the groups belong to the present ones.
    """

    def __init__(self, path: Path) -> None:
        rows = read_jsonl(path, growing=True) if path.exists() else ()
        self._groups: dict[str, dict[str, Group]] = {}
        for row in rows:
            group = decode(Group, row["group"], str(path))
            self._groups.setdefault(row["model"], {})[group.id] = group
        self._file = Appender(path)

    def of(self, model: str) -> dict[str, Group]:
        """The groups that one model has written, by their ids."""
        return dict(self._groups.get(model, {}))

    def add(self, model: str, result: GroupResult) -> None:
        """Keep a group, if there is one."""
        if result.group is not None:
            self._file.append({"model": model, "group": result.group})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def remove(self) -> None:
        """Remove the file, once the stage has written its outputs."""
        self._file.path.unlink()
