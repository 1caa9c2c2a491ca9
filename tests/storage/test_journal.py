from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rayalign.errors import RayalignError
from rayalign.storage.journal import Accounting, Entry, Journal


def submitted(group: str) -> Entry:
    return {"kind": "submitted", "group": group, "iteration": 0, "prompt": "p"}


def finished(group: str) -> Entry:
    return {"kind": "finished", "group": {"id": group, "text": "a\u2028b"}}


def dropped(group: str) -> Entry:
    return {"kind": "dropped", "group": group, "reason": "engine died"}


def consumed(*groups: str) -> Entry:
    return {"kind": "consumed", "iteration": 0, "groups": list(groups)}


Fill = Callable[[Path, Iterable[Entry]], Journal]


@pytest.fixture
def filled() -> Iterator[Fill]:
    """Opens journals, adds entries, and closes them after the test."""
    opened: list[Journal] = []

    def fill(path: Path, entries: Iterable[Entry]) -> Journal:
        opened.append(Journal(path))
        for entry in entries:
            opened[-1].append(entry)
        return opened[-1]

    yield fill
    for journal in opened:
        journal.close()


def test_entries_come_back_and_position_is_the_length(filled: Fill, tmp_path: Path) -> None:
    path = tmp_path / "journal" / "ppo.jsonl"
    entries = [submitted("a"), finished("a"), consumed("a")]
    journal = filled(path, entries)
    journal.sync()
    assert journal.position == path.stat().st_size
    assert list(journal.replay()) == entries
    again = filled(path, [])
    assert again.position == path.stat().st_size
    assert list(again.replay()) == entries


def test_kill_at_every_byte_loses_only_the_last_entry(filled: Fill, tmp_path: Path) -> None:
    whole = filled(tmp_path / "whole", [submitted("a"), finished("a")]).path.read_bytes()
    start = whole.index(b"\n") + 1
    for end in range(start, len(whole) + 1):
        path = tmp_path / f"torn{end}"
        path.write_bytes(whole[:end])
        journal = filled(path, [dropped("b")])
        expected = [submitted("a"), finished("a")] if end == len(whole) else [submitted("a")]
        assert list(journal.replay()) == [*expected, dropped("b")]


def test_rewind_hides_what_came_after_but_not_the_kept_groups(filled: Fill, tmp_path: Path) -> None:
    journal = filled(tmp_path / "j", [submitted("a"), finished("a")])
    checkpoint = journal.position
    for entry in [submitted("b"), finished("b"), submitted("c"), dropped("c"), consumed("a")]:
        journal.append(entry)
    journal.append({"kind": "rewound", "to": checkpoint, "kept": ["b"]})
    journal.append(consumed("a", "b"))
    held = [submitted("a"), finished("a"), submitted("b"), finished("b"), consumed("a", "b")]
    assert list(journal.replay(effective=True)) == held
    assert len(list(journal.replay())) == 9


def test_second_rewind_reaches_behind_the_first(filled: Fill, tmp_path: Path) -> None:
    journal = filled(tmp_path / "j", [submitted("a")])
    early = journal.position
    journal.append(finished("a"))
    journal.append({"kind": "rewound", "to": early, "kept": []})
    journal.append(finished("a"))
    journal.append(consumed("a"))
    journal.append({"kind": "rewound", "to": early, "kept": ["a"]})
    # the first writing of `a` was given up by the first rewind and stays so
    assert list(journal.replay(effective=True)) == [submitted("a"), finished("a")]


def test_accounting_counts(filled: Fill, tmp_path: Path) -> None:
    journal = filled(tmp_path / "j", [*map(submitted, "abcd"), *map(finished, "abc"), consumed("a", "b"), dropped("c")])
    account = Accounting.of(journal.replay(effective=True))
    assert (len(account.submitted), len(account.finished), account.consumed.total()) == (4, 3, 2)
    assert account.drops == {"engine died": 1}
    assert account.open == {"d"}
    account.check(ended=False)


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ([submitted("a"), consumed("a"), consumed("a")], r"consumed more than once: a \(1\)"),
        ([submitted("a"), consumed("a"), dropped("a")], "both consumed and dropped: a"),
        ([submitted("a"), submitted("b"), consumed("a")], "neither consumed nor dropped: b"),
    ],
)
def test_accounts_that_do_not_add_up_are_refused(entries: list[Entry], fault: str) -> None:
    with pytest.raises(RayalignError, match=fault):
        Accounting.of(entries).check(ended=True)


class Run:
    """A coordinator reduced to its journal, which is killed at any byte and goes on."""

    def __init__(self, path: Path, dice: random.Random) -> None:
        self.path, self.dice, self.todo = path, dice, [f"g{i}" for i in range(12)]
        self.checkpoint = 0

    def work(self, steps: int) -> bool:
        """Some steps; True once every group has ended."""
        with closing(Journal(self.path)) as journal:
            return self.go_on(journal, steps)

    def go_on(self, journal: Journal, steps: int) -> bool:
        self.resume(journal)
        for _ in range(steps):
            account = Accounting.of(journal.replay(effective=True))
            account.check(ended=False)
            fresh = [g for g in self.todo if g not in account.submitted]
            running = sorted(account.open - account.finished)
            ready = sorted(account.open & account.finished)
            if not (fresh or running or ready):
                return True
            if ready and self.dice.random() < 0.4:
                journal.append(dropped(ready[0]) if self.dice.random() < 0.2 else consumed(*ready[:2]))
                self.checkpoint = journal.position if self.dice.random() < 0.5 else self.checkpoint
            elif running and self.dice.random() < 0.6:
                journal.append(finished(self.dice.choice(running)))
            elif fresh:
                journal.append(submitted(fresh[0]))
        return False

    def resume(self, journal: Journal) -> None:
        account = Accounting.of(journal.replay(effective=True))
        kept = sorted(account.finished) if self.dice.random() < 0.5 else []
        journal.append({"kind": "rewound", "to": self.checkpoint, "kept": kept})

    def kill(self) -> None:
        """Lose a part of the last line, never what a checkpoint stands on."""
        content = self.path.read_bytes()
        start = max(self.checkpoint, content[:-1].rfind(b"\n") + 1)
        self.path.write_bytes(content[: self.dice.randint(start, len(content))])


@pytest.mark.parametrize("seed", range(25))
def test_every_group_ends_exactly_once_whatever_is_killed(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    run = Run(tmp_path / "j", dice)
    for _ in range(200):
        if run.work(dice.randint(5, 30)):
            break
        run.kill()
    with closing(Journal(run.path)) as journal:
        account = Accounting.of(journal.replay(effective=True))
    account.check(ended=True)
    assert account.consumed.keys() | account.dropped.keys() == set(run.todo)
