"""Kills at every entry of a journal: what is kept, what is made again, and that every group ends exactly once."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rayalign.coordinator.order import PromptOrder
from rayalign.coordinator.recovery import Resumption, recover, restore
from rayalign.storage.checkpoints import CheckpointStore
from rayalign.storage.journal import Accounting, Journal
from rayalign.storage.records import encode
from rayalign.types import Group, Message, Prompt, Segment, Trajectory

PROMPT = Prompt("p", (Message("user", "hello"),))
ITERATIONS, PROMPTS = 4, 2


def made(group_id: str, *versions: int) -> Group:
    """A group whose one answer was written by these versions, a token each."""
    segments = (Segment(0, "template"), *(Segment(1 + i, "policy", v) for i, v in enumerate(versions)))
    tokens = tuple(range(1 + len(versions)))
    answer = Trajectory(group_id, 0, tokens, segments, (-1.0,) * len(versions), "stop", "text")
    return Group(group_id, PROMPT, int(group_id[:5]), (answer,))


def submitted(group_id: str) -> dict[str, Any]:
    return {"kind": "submitted", "group": group_id, "iteration": int(group_id[:5]), "prompt": "p"}


def finished(group_id: str, *versions: int) -> dict[str, Any]:
    return {"kind": "finished", "group": encode(made(group_id, *versions))}


def scored(group_id: str) -> dict[str, Any]:
    return {"kind": "scored", "group": group_id, "scores": [{"value": 0.5, "reason": None}]}


def consumed(iteration: int, *groups: str) -> dict[str, Any]:
    return {"kind": "consumed", "iteration": iteration, "groups": list(groups)}


def whole(group_id: str, *versions: int) -> list[dict[str, Any]]:
    return [submitted(group_id), finished(group_id, *versions), scored(group_id)]


class Killed(Exception):
    pass


class Run:
    """What the two loops write, without a model: iteration i + staleness is made before i is consumed."""

    def __init__(self, folder: Path, staleness: int, every: int, deterministic: bool = False) -> None:
        self.journal = Journal(folder / "journal.jsonl")
        self.checkpoints = CheckpointStore(folder / "checkpoints", keep=1)
        self.staleness, self.every, self.deterministic = staleness, every, deterministic
        self.left: float = 0

    def go(self, entries: float) -> None:
        """Start or resume, and be killed after so many entries."""
        resumption = recover(
            self.journal,
            self.checkpoints,
            scored=True,
            max_staleness=self.staleness,
            deterministic=self.deterministic,
        )
        self.left = entries
        serials = dict(resumption.serials)
        ready = {g.iteration: {} for g in resumption.groups} | {i: {} for i in range(ITERATIONS)}
        for group in resumption.groups:
            slot = group.id.split("-")[1].split(".")[0]
            assert slot not in ready[group.iteration], "two groups for one place"
            ready[group.iteration][slot] = group.id
        admitted = resumption.iteration
        for iteration in range(resumption.iteration, ITERATIONS):
            while admitted < min(ITERATIONS, iteration + self.staleness + 1):
                self.make(admitted, iteration, ready[admitted], serials)
                admitted += 1
            self.append(consumed(iteration, *ready[iteration].values()))
            if (iteration + 1) % self.every == 0 or iteration + 1 == ITERATIONS:
                manifest = {"iteration": iteration + 1, "journal": self.journal.position, "state": {"beta": iteration}}
                self.checkpoints.commit(self.checkpoints.begin(iteration + 1), manifest)

    def make(self, iteration: int, version: int, ready: dict[str, str], serials: dict[tuple[int, int], int]) -> None:
        for slot in range(PROMPTS):
            if f"{slot:04d}" not in ready:
                serial = serials.get((iteration, slot), 0)
                serials[iteration, slot] = serial + 1
                group_id = f"{iteration:05d}-{slot:04d}.{serial}"
                for entry in whole(group_id, version):
                    self.append(entry)
                ready[f"{slot:04d}"] = group_id

    def append(self, entry: dict[str, Any]) -> None:
        if not self.left:
            raise Killed
        self.left -= 1
        self.journal.append(entry)


def check_books(journal: Journal) -> None:
    account = Accounting.of(journal.replay(effective=True))
    account.check(ended=True)
    places = sorted(group_id.split(".")[0] for group_id in account.consumed)
    assert places == [f"{i:05d}-{slot:04d}" for i in range(ITERATIONS) for slot in range(PROMPTS)]
    ids = [e["group"] for e in journal.replay() if e["kind"] == "submitted"]
    assert len(ids) == len(set(ids)), "a group id was given twice"


@pytest.mark.parametrize(
    ("staleness", "every", "deterministic"), [(0, 1, False), (1, 2, False), (2, 3, False), (0, 2, True)]
)
def test_a_kill_after_any_entry_loses_and_doubles_nothing(
    staleness: int, every: int, deterministic: bool, tmp_path: Path
) -> None:
    entries = ITERATIONS * (3 * PROMPTS + 1)
    for kill in range(entries):
        run = Run(tmp_path / str(kill), staleness, every, deterministic)
        with pytest.raises(Killed):
            run.go(kill)
        with closing(run.journal):
            run.go(float("inf"))
            check_books(run.journal)


@pytest.mark.parametrize("seed", range(8))
def test_kills_upon_kills(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    run = Run(tmp_path, staleness=seed % 3, every=dice.choice([1, 2, 3]), deterministic=False)
    for _ in range(5):
        try:
            run.go(dice.randrange(12))
        except Killed:
            run.journal.close()
            run.journal = Journal(run.journal.path)
    with closing(run.journal):
        run.go(float("inf"))
        check_books(run.journal)


@pytest.fixture
def interrupted(tmp_path: Path) -> Iterator[tuple[Journal, CheckpointStore]]:
    """Killed in iteration 2 of staleness 1, with the last checkpoint after iteration 0."""
    journal, checkpoints = Journal(tmp_path / "journal.jsonl"), CheckpointStore(tmp_path / "checkpoints", keep=1)
    before = [*whole("00000-0000.0", 0), submitted("00001-0000.0"), submitted("00001-0001.0")]
    before += [finished("00001-0000.0", 0), consumed(0, "00000-0000.0")]
    for entry in before:
        journal.append(entry)
    manifest = {"iteration": 1, "journal": journal.position, "state": {"beta": 0.25}}
    checkpoints.commit(checkpoints.begin(1), manifest)
    after = [scored("00001-0000.0"), *whole("00001-0002.0", 1), consumed(1, "00001-0000.0", "00001-0002.0")]
    after += [*whole("00002-0000.0", 1), *whole("00002-0001.0", 1, 2), submitted("00002-0002.0")]
    after += [submitted("00002-0003.0"), finished("00002-0003.0", 1)]
    for entry in after:
        journal.append(entry)
    yield journal, checkpoints
    journal.close()


def resume(interrupted: tuple[Journal, CheckpointStore], staleness: int, deterministic: bool = False) -> Resumption:
    return recover(*interrupted, scored=True, max_staleness=staleness, deterministic=deterministic)


def books(journal: Journal) -> tuple[set[str], dict[str, str]]:
    account = Accounting.of(journal.replay(effective=True))
    return set(account.consumed), account.dropped


LOST = "lost at an interruption"


def test_whole_groups_of_known_weights_are_kept(interrupted: tuple[Journal, CheckpointStore]) -> None:
    found = resume(interrupted, staleness=1)
    assert (found.iteration, found.state) == (1, {"beta": 0.25})
    assert found.checkpoint is not None and found.checkpoint.name == "iteration-000001"
    # not 2-1, partly written by weights that are gone; not 2-3, which has no score
    assert [g.id for g in found.groups] == ["00001-0000.0", "00001-0002.0", "00002-0000.0"]
    assert [g.scores[0].value for g in found.groups] == [0.5, 0.5, 0.5]
    assert books(interrupted[0]) == ({"00000-0000.0"}, {"00001-0001.0": LOST})
    assert found.serials[1, 1] == found.serials[2, 3] == 1


def test_at_staleness_0_only_groups_of_the_current_weights_are_kept(
    interrupted: tuple[Journal, CheckpointStore],
) -> None:
    assert [g.id for g in resume(interrupted, staleness=0).groups] == ["00001-0002.0"]
    assert books(interrupted[0])[1] == {"00001-0000.0": LOST, "00001-0001.0": LOST}


def test_in_deterministic_mode_the_iteration_is_made_again(interrupted: tuple[Journal, CheckpointStore]) -> None:
    found = resume(interrupted, staleness=0, deterministic=True)
    assert (found.iteration, found.groups) == (1, ())
    assert books(interrupted[0]) == ({"00000-0000.0"}, {"00001-0000.0": LOST, "00001-0001.0": LOST})


def test_recovering_twice_says_the_same(interrupted: tuple[Journal, CheckpointStore]) -> None:
    first = resume(interrupted, staleness=1)
    assert resume(interrupted, staleness=1) == first
    assert books(interrupted[0]) == ({"00000-0000.0"}, {"00001-0001.0": LOST})


def test_without_a_checkpoint_it_starts_over_with_what_the_first_weights_wrote(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "journal.jsonl")) as journal:
        for entry in [*whole("00000-0000.0", 0), *whole("00001-0000.0", 1), submitted("00000-0001.0")]:
            journal.append(entry)
        checkpoints = CheckpointStore(tmp_path / "checkpoints", 1)
        found = recover(journal, checkpoints, scored=True, max_staleness=0, deterministic=False)
    assert (found.iteration, found.checkpoint) == (0, None)
    assert [g.id for g in found.groups] == ["00000-0000.0"]


class Observer(PromptOrder):
    """Remembers what it is shown."""

    def __init__(self) -> None:
        super().__init__((), 0)
        self.rewards: list[tuple[int, list[float | None]]] = []

    def observe(self, iteration: int, groups: Sequence[Group]) -> None:
        self.rewards.append((iteration, [group.scores[0].value for group in groups]))


def test_an_order_of_prompts_sees_the_rewards_of_what_was_consumed(
    interrupted: tuple[Journal, CheckpointStore],
) -> None:
    resume(interrupted, staleness=1)
    order = Observer()
    restore(interrupted[0], None, order)
    assert order.rewards == [(0, [0.5])]


def test_nothing_on_disk_is_a_fresh_start(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(tmp_path / "checkpoints", 1)
    with closing(Journal(tmp_path / "journal.jsonl")) as journal:
        fresh = recover(journal, checkpoints, scored=True, max_staleness=1, deterministic=False)
        assert fresh == Resumption()
        assert journal.position == 0
