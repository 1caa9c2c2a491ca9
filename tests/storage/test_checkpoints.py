from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import pytest

from rayalign.storage.checkpoints import CheckpointStore


def save(store: CheckpointStore, iteration: int, **manifest: object) -> Path:
    part = store.begin(iteration)
    (part / "policy").mkdir()
    (part / "policy" / "rank0.bin").write_bytes(bytes([iteration]) * 1000)
    return store.commit(part, {"iteration": iteration, **manifest})


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.is_symlink())


def test_committed_checkpoint_is_the_latest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    assert store.latest() is None
    path = save(store, 12, kl_beta=0.1 + 0.2, journal=345)
    assert path.name == "iteration-000012"
    assert CheckpointStore(tmp_path / "checkpoints", 2).latest() == (
        path,
        {"iteration": 12, "kl_beta": 0.1 + 0.2, "journal": 345},
    )


def test_uncommitted_folder_is_ignored_and_tidied_away(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    path = save(store, 1)
    (store.begin(2) / "half.bin").write_bytes(b"x")
    again = CheckpointStore(tmp_path, 2)
    latest = again.latest()
    assert latest is not None and latest[0] == path
    again.tidy()
    assert names(tmp_path) == ["iteration-000001"]


def test_reading_removes_nothing_so_that_every_rank_may_read(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 1)
    store.begin(2)
    store.latest()
    assert names(tmp_path) == [".iteration-000002.tmp", "iteration-000001"]


def test_begin_again_starts_empty(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    (store.begin(2) / "half.bin").write_bytes(b"x")
    assert list(store.begin(2).iterdir()) == []


@pytest.mark.parametrize("damage", ["missing", "shorter", "changed"])
def test_damaged_checkpoint_is_skipped_with_a_warning(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    good, bad = save(store, 1), save(store, 2)
    part = bad / "policy" / "rank0.bin"
    if damage == "missing":
        part.unlink()
    else:
        part.write_bytes(b"y" * (1000 if damage == "changed" else 10))
    with caplog.at_level(logging.WARNING):
        latest = store.latest()
    assert latest is not None and latest[0] == good
    assert "iteration-000002 is skipped" in caplog.text and "policy/rank0.bin" in caplog.text


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("name", ["policy/rank0.bin", "policy/zero_pp_rank_9_optim_states.pt"])
def test_a_planted_pickle_is_never_offered_for_reading(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, marker = CheckpointStore(tmp_path / "checkpoints", keep=2), tmp_path / "owned"
    good, attacked = save(store, 1), save(store, 2)
    (attacked / name).write_bytes(pickle.dumps(Attack(marker)))
    assert pickle.loads((attacked / name).read_bytes()) is None and marker.exists(), "the attack works"
    latest = store.latest()
    assert latest is not None and latest[0] == good
    assert name in caplog.text


def test_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for iteration, score in enumerate([0.1, 0.9, float("nan"), 0.9, 0.5, None], start=1):
        save(store, iteration, score=score)
    assert names(tmp_path) == ["iteration-000002", "iteration-000005", "iteration-000006"]
    assert store.best() == (tmp_path / "best").resolve() == tmp_path / "iteration-000002"
    assert (tmp_path / "last").resolve().name == "iteration-000006"


def test_same_iteration_made_again_replaces(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 3, run=1)
    path = save(store, 3, run=2)
    assert store.latest() == (path, {"iteration": 3, "run": 2})
    assert names(tmp_path) == ["iteration-000003"]


def test_what_a_stage_could_go_back_to_outlives_newer_ones(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    for iteration in range(1, 6):
        part = store.begin(iteration)
        store.commit(part, {"iteration": iteration}, lambda manifest: manifest["iteration"] <= 3)
    assert names(tmp_path) == ["iteration-000003", "iteration-000005"]


def test_discarded_checkpoints_are_gone_and_the_links_lead_to_others(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=9)
    for iteration, score in ((1, 0.5), (2, 0.1), (3, 0.9)):
        save(store, iteration, score=score)
    store.discard(lambda manifest: manifest["iteration"] > 2)
    assert names(tmp_path) == ["iteration-000001", "iteration-000002"]
    assert (tmp_path / "last").readlink() == Path("iteration-000002")
    assert (tmp_path / "best").readlink() == Path("iteration-000001")
    store.discard(lambda manifest: True)
    assert not list(tmp_path.iterdir())
