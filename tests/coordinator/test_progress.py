from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayalign.coordinator.progress import Heartbeat, Watch
from rayalign.errors import DeadlineError, LostError


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(tmp_path: Path, clock: Clock) -> Watch:
    return Watch(tmp_path, "policy", ranks=2, start_timeout=11.0, timeout=10.0, clock=clock)


def beat(
    folder: Path, rank: int, beats: int, reports: int, activity: str = "pass 1", *, ready: bool = True, world: int = 2
) -> None:
    content = {"pid": 70 + rank, "host": "here", "activity": activity, "reports": reports, "beats": beats}
    content |= {"ready": ready, "world": world}
    (folder / f"{rank}.json").write_text(json.dumps(content))


def test_only_the_ranks_that_take_part_are_awaited(tmp_path: Path, watch: Watch, clock: Clock) -> None:
    """After a machine was lost the loop goes on with one rank, and the other one's last beat is of before."""
    beat(tmp_path, 0, 1, 1, world=2)
    beat(tmp_path, 1, 1, 1, world=2)
    watch.check()
    for step in range(2, 6):
        clock.seconds += 9.0
        beat(tmp_path, 0, step, step, world=1)
        watch.check()
    assert watch.ready
    clock.seconds += 9.0
    beat(tmp_path, 0, 6, 6, world=2)
    watch.check()  # the other rank starts again, and has its time from now on
    clock.seconds += 11.0
    beat(tmp_path, 0, 7, 7, world=2)
    with pytest.raises(LostError, match="rank 1"):
        watch.check()


def test_ranks_that_get_on_are_left_alone(tmp_path: Path, watch: Watch, clock: Clock) -> None:
    for step in range(5):
        beat(tmp_path, 0, step, step)
        beat(tmp_path, 1, step, step)
        watch.check()
        clock.seconds += 9.0


def test_a_silent_rank_is_blamed_not_the_one_that_waits_for_it(tmp_path: Path, watch: Watch, clock: Clock) -> None:
    beat(tmp_path, 0, 1, 1)
    beat(tmp_path, 1, 1, 1)
    watch.check()
    clock.seconds = 9.0
    beat(tmp_path, 0, 2, 1)
    watch.check()
    clock.seconds = 10.5
    with pytest.raises(LostError, match=r"train:policy rank 1 \(pid 71 on here\) has not run for 10 s, in pass 1"):
        watch.check()


def test_a_rank_that_beats_but_reports_nothing_new_is_stuck(tmp_path: Path, watch: Watch, clock: Clock) -> None:
    for second in range(11):
        clock.seconds = float(second)
        beat(tmp_path, 0, second, 4, "checkpoint 3")
        beat(tmp_path, 1, second, second)
        watch.check()
    clock.seconds = 11.0
    beat(tmp_path, 0, 11, 4, "checkpoint 3")
    beat(tmp_path, 1, 11, 11)
    with pytest.raises(DeadlineError, match=r"rank 0 \(pid 70 on here\) waits for checkpoint 3 since 11 s"):
        watch.check()


def test_a_silent_rank_is_found_by_its_heartbeat_long_before_the_deadline(tmp_path: Path, clock: Clock) -> None:
    watch = Watch(tmp_path, "policy", 2, start_timeout=300.0, timeout=1800.0, heartbeat=30.0, clock=clock)
    beat(tmp_path, 0, 1, 1, ready=False)
    beat(tmp_path, 1, 1, 1)
    watch.check()
    clock.seconds = 29.0
    watch.check()
    clock.seconds = 31.0
    with pytest.raises(LostError, match=r"rank 1 \(pid 71 on here\) has not run for 31 s"):
        watch.check()


def test_a_rank_that_never_began_is_named(tmp_path: Path, watch: Watch, clock: Clock) -> None:
    clock.seconds = 8.0
    beat(tmp_path, 1, 1, 1)
    watch.check()
    clock.seconds = 12.0
    with pytest.raises(LostError, match="train:policy rank 0 did not start within 12 s"):
        watch.check()


def test_a_rank_that_loads_has_the_start_timeout(tmp_path: Path, clock: Clock) -> None:
    watch = Watch(tmp_path, "policy", ranks=1, start_timeout=30.0, timeout=10.0, clock=clock)
    beat(tmp_path, 0, 1, 1, "the model m", ready=False)
    watch.check()
    clock.seconds = 29.0
    watch.check()
    clock.seconds = 31.0
    with pytest.raises(LostError, match="has not run for 31 s, in the model m"):
        watch.check()


def test_a_restarted_rank_has_its_time_anew(tmp_path: Path, clock: Clock) -> None:
    watch = Watch(tmp_path, "policy", ranks=1, start_timeout=11.0, timeout=10.0, clock=clock)
    beat(tmp_path, 0, 5, 1)
    watch.check()
    clock.seconds = 9.0
    beat(tmp_path, 1, 1, 1)
    (tmp_path / "1.json").replace(tmp_path / "0.json")  # another pid with the same count of reports
    watch.check()
    clock.seconds = 18.0
    watch.check()


def test_a_heartbeat_is_what_the_watch_reads(tmp_path: Path, clock: Clock) -> None:
    watch = Watch(tmp_path, "reward", ranks=1, start_timeout=60.0, timeout=10.0, clock=clock)
    with Heartbeat(tmp_path, 0, timeout=600.0) as heartbeat:
        heartbeat.report("the model m")
        heartbeat.ready()  # is written at once, so that the short deadline holds
        watch.check()
    clock.seconds = 11.0
    with pytest.raises(LostError, match="train:reward rank 0 .* in the model m"):
        watch.check()
