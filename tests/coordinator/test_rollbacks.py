from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from rayalign.config import GuardConfig, LearnerConfig
from rayalign.coordinator.guards import Firing
from rayalign.coordinator.rollbacks import COUNT, RATE, Rollbacks, read_rollbacks, rollback_error
from rayalign.errors import GuardError
from rayalign.storage.checkpoints import CheckpointStore, Manifest
from rayalign.storage.events import EventLog
from rayalign.storage.records import read_jsonl

LIMIT = GuardConfig(metric="policy/approx_kl", above=1.0, action="rollback", rate=0.5, rollbacks=2)
TEXT = "iteration 7: policy/approx_kl is 3, above 1"


class Sink:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, Mapping[str, float]]] = []

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self.rows.append((step, dict(metrics)))

    def close(self) -> None:
        pass


@pytest.fixture
def events(tmp_path: Path) -> Iterator[EventLog]:
    with closing(EventLog(tmp_path / "events.jsonl")) as log:
        yield log


def rollbacks(folder: Path) -> Rollbacks:
    return Rollbacks(folder, read_rollbacks(folder))


def go_back(folder: Path, events: EventLog, *iterations: int, bad: int) -> Sink:
    """Fire where there are checkpoints of these iterations, of which those from `bad` on are not good."""
    store, sink = CheckpointStore(folder / "checkpoints", keep=9), Sink()
    for iteration in iterations:
        store.commit(store.begin(iteration), {"iteration": iteration})

    def is_good(manifest: Manifest) -> bool:
        return bool(manifest["iteration"] < bad)

    rollbacks(folder).record(Firing(LIMIT, 7, TEXT), store, is_good, unit="iteration", events=events, sink=sink)
    return sink


def test_a_return_discards_what_is_not_good_and_is_written_everywhere(tmp_path: Path, events: EventLog) -> None:
    folder = tmp_path / "ppo"
    sink = go_back(folder, events, 2, 4, 6, 8, bad=6)
    assert sorted(path.name for path in (folder / "checkpoints").glob("iteration-*")) == [
        "iteration-000002",
        "iteration-000004",
    ]
    assert rollbacks(folder).last == 4
    assert sink.rows == [(7, {COUNT: 1, RATE: 0.5})]
    (event,) = read_jsonl(tmp_path / "events.jsonl")
    fields = {name: event[name] for name in ("event", "stage", "reason", "to", "rate", "left")}
    assert fields == {"event": "rolled_back", "stage": "ppo", "reason": TEXT, "to": 4, "rate": 0.5, "left": 1}


def test_without_a_good_checkpoint_the_stage_begins_anew(tmp_path: Path, events: EventLog) -> None:
    go_back(tmp_path / "ppo", events, 2, bad=1)
    assert rollbacks(tmp_path / "ppo").last == 0
    assert not list((tmp_path / "ppo" / "checkpoints").iterdir())


def test_each_return_changes_the_seed_and_lowers_the_rate(tmp_path: Path, events: EventLog) -> None:
    folder, config = tmp_path / "ppo", LearnerConfig(learning_rate=0.1)
    seeds, rates = [], []
    for _ in range(3):
        seeds.append(rollbacks(folder).seed(7))
        rates.append(rollbacks(folder).slowed(config).learning_rate)
        go_back(folder, events, 2, bad=9)
    assert len(set(seeds)) == 3 and seeds[0] == 7
    assert rates == pytest.approx([0.1, 0.05, 0.025])


def test_a_guard_allows_so_many_returns_and_then_stops(tmp_path: Path, events: EventLog) -> None:
    folder, firing = tmp_path / "ppo", Firing(LIMIT, 7, TEXT)
    for _ in range(2):
        rollbacks(folder).verify(firing)
        go_back(folder, events, 2, bad=9)
    with pytest.raises(
        GuardError, match=rf"^{TEXT}; the stage has gone back as often as .* allows \(rollbacks: 2\): look"
    ):
        rollbacks(folder).verify(firing)


def test_the_error_names_metric_and_rate() -> None:
    text = str(rollback_error(Firing(LIMIT, 7, TEXT)))
    assert text.startswith(f"{TEXT}; the stage goes back to its last good checkpoint, with other samples and 0.5 times")
