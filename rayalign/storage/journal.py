"""The coordinator's durable state: the history of every group of one training stage, append-only.

    submitted {group, iteration, prompt}   the group is requested
    finished  {group: {...}}               the whole encoded Group, without scores
    scored    {group, scores}              the encoded Scores, one for each trajectory
    dropped   {group, reason}              or
    consumed  {iteration, groups}          exactly one of the two ends a group
    rewound   {to, kept}                   entries since byte `to` are void, except those that made the kept groups

Each entry is one line `{"kind": ..., ...}`. The journal is never shortened: a return to a checkpoint is an entry too.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rayalign.errors import RayalignError
from rayalign.storage.records import Appender, positioned_jsonl, read_jsonl

_MAKING = ("submitted", "finished", "scored")
Entry = dict[str, Any]


def group_of(entry: Entry) -> str | None:
    """The id of an entry's group; None for `consumed` and `rewound`."""
    group = entry.get("group")
    return group["id"] if isinstance(group, dict) else group


class Journal(Appender):
    """One writer's entries, each with `kind` and its fields."""

    @property
    def position(self) -> int:
        """Length of the file [bytes]; a checkpoint stores it."""
        return self._file.tell()

    def sync(self) -> None:
        """Make all entries survive a crash of the machine."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close the file."""
        self.sync()
        super().close()

    def replay(self, *, effective: bool = False) -> Iterator[Entry]:
        """All entries in order; `effective`: only those that still hold after every rewind, without the rewinds."""
        if not effective:
            yield from read_jsonl(self.path)
            return
        rewinds = []
        for position, entry in positioned_jsonl(self.path):
            if entry["kind"] == "rewound":
                rewinds.append(_Rewind(entry["to"], position, frozenset(entry["kept"])))
        for position, entry in positioned_jsonl(self.path):
            hidden = any(rewind.hides(position, entry) for rewind in rewinds)
            if entry["kind"] != "rewound" and not hidden:
                yield entry


@dataclass(frozen=True, slots=True)
class _Rewind:
    """Cancels the entries from byte `start` to `end`, except those that made the kept groups."""

    start: int
    end: int
    kept_groups: frozenset[str]

    def hides(self, position: int, entry: Entry) -> bool:
        makes_kept_group = entry["kind"] in _MAKING and group_of(entry) in self.kept_groups
        return self.start <= position < self.end and not makes_kept_group


@dataclass(slots=True)
class Accounting:
    """The state of every group of a stage, from an effective replay."""

    submitted: set[str] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    consumed: Counter[str] = field(default_factory=Counter)
    """group -> number of times, which must be 1"""
    dropped: dict[str, str] = field(default_factory=dict)
    """group -> reason"""
    absent: Counter[str] = field(default_factory=Counter)
    """reason -> candidates that finished groups lack"""

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Accounting:
        """The account of a journal from its `replay(effective=True)`."""
        account = cls()
        for entry in entries:
            account.add(entry)
        return account

    def add(self, entry: Entry) -> None:
        """Count one more entry."""
        group = group_of(entry) or ""
        match entry["kind"]:
            case "submitted":
                self.submitted.add(group)
            case "finished":
                self.finished.add(group)
                self.absent.update(absence["reason"] for absence in entry["group"].get("absent", ()))
            case "dropped":
                self.dropped[group] = entry["reason"]
            case "consumed":
                self.consumed.update(entry["groups"])

    @property
    def open(self) -> set[str]:
        """Groups that were requested and neither consumed nor dropped."""
        return (self.submitted | self.finished) - self.consumed.keys() - self.dropped.keys()

    @property
    def drops(self) -> Counter[str]:
        """Dropped groups by reason."""
        return Counter(self.dropped.values())

    def check(self, *, ended: bool) -> None:
        """Raises RayalignError if a group was consumed twice, consumed and dropped, or neither once the stage ended."""
        faults = {
            "consumed more than once": {group for group, times in self.consumed.items() if times > 1},
            "both consumed and dropped": self.consumed.keys() & self.dropped.keys(),
            "neither consumed nor dropped": self.open if ended else set(),
        }
        reports = []
        for fault, groups in faults.items():
            if groups:
                examples = ", ".join(sorted(groups)[:5])
                reports.append(f"{fault}: {examples} ({len(groups)})")
        if reports:
            raise RayalignError(f"The journal does not add up; groups {'; '.join(reports)}. Run the stage again.")
