"""The coordinator's durable state: what became of every group of one training stage, append-only.

    submitted {group, iteration, prompt}   the group is asked for
    finished  {group: {...}}               the whole encoded Group, without scores
    scored    {group, scores}              the encoded Scores, one for each trajectory
    dropped   {group, reason}              or
    consumed  {iteration, groups}          exactly one of the two ends a group
    rewound   {to, kept}                   entries since byte `to` no longer hold, but for how the kept groups were made

Each entry is one line `{"kind": ..., ...}`. The journal is never shortened: going back to a checkpoint is an entry too.
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
    """The id of the one group that an entry speaks of; None for `consumed` and `rewound`."""
    group = entry.get("group")
    return group["id"] if isinstance(group, dict) else group


class Journal(Appender):
    """One writer's entries, each with `kind` and its fields."""

    @property
    def position(self) -> int:
        """Length of what has been written [bytes]; a checkpoint keeps it."""
        return self._file.tell()

    def sync(self) -> None:
        """Make all entries outlive the machine."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync, and write no more."""
        self.sync()
        super().close()

    def replay(self, *, effective: bool = False) -> Iterator[Entry]:
        """All entries in order; `effective`: only those that still hold after every rewind, without the rewinds."""
        if not effective:
            yield from read_jsonl(self.path)
            return
        rewinds = [
            (at, e["to"], frozenset(e["kept"])) for at, e in positioned_jsonl(self.path) if e["kind"] == "rewound"
        ]
        for at, entry in positioned_jsonl(self.path):
            if entry["kind"] != "rewound" and not any(_hides(rewind, at, entry) for rewind in rewinds):
                yield entry


def _hides(rewind: tuple[int, int, frozenset[str]], at: int, entry: Entry) -> bool:
    marker, to, kept = rewind
    return to <= at < marker and not (entry["kind"] in _MAKING and group_of(entry) in kept)


@dataclass(slots=True)
class Accounting:
    """What became of every group of a stage, by an effective replay."""

    submitted: set[str] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    consumed: Counter[str] = field(default_factory=Counter)
    """group -> how often, which must be once"""
    dropped: dict[str, str] = field(default_factory=dict)
    """group -> reason"""

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Accounting:
        """The account of a journal, given `journal.replay(effective=True)`."""
        account = cls()
        for entry in entries:
            account.add(entry)
        return account

    def add(self, entry: Entry) -> None:
        """Count one entry more."""
        group = group_of(entry) or ""
        match entry["kind"]:
            case "submitted":
                self.submitted.add(group)
            case "finished":
                self.finished.add(group)
            case "dropped":
                self.dropped[group] = entry["reason"]
            case "consumed":
                self.consumed.update(entry["groups"])

    @property
    def open(self) -> set[str]:
        """Groups that were asked for and neither consumed nor dropped."""
        return (self.submitted | self.finished) - self.consumed.keys() - self.dropped.keys()

    @property
    def drops(self) -> Counter[str]:
        """Dropped groups by reason."""
        return Counter(self.dropped.values())

    def check(self, *, ended: bool) -> None:
        """RayalignError when a group was consumed twice, consumed and dropped, or, once the stage ended, neither."""
        faults = {
            "consumed more than once": {group for group, times in self.consumed.items() if times > 1},
            "both consumed and dropped": self.consumed.keys() & self.dropped.keys(),
            "neither consumed nor dropped": self.open if ended else set(),
        }
        told = [f"{what}: {', '.join(sorted(groups)[:5])} ({len(groups)})" for what, groups in faults.items() if groups]
        if told:
            raise RayalignError(f"The journal does not add up; groups {'; '.join(told)}. Run the stage again.")
