from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import Future

import psutil
import pytest

from rayalign.actors.hosted import Pulse, own_pulse
from rayalign.cluster.heart import Condition, Heart, condition_of


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Asked:
    """The heartbeats that were asked for."""

    def __init__(self) -> None:
        self.futures: list[Future[Pulse]] = []

    def __call__(self) -> Future[Pulse]:
        self.futures.append(Future())
        return self.futures[-1]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def heart(clock: Clock) -> Heart:
    return Heart(30.0, clock)


def test_an_answer_is_kept_and_the_next_one_asked_for(heart: Heart, asked: Asked, clock: Clock) -> None:
    assert heart.listen(asked) == 0.0
    clock.seconds = 8.0
    assert heart.listen(asked) == 8.0
    asked.futures[0].set_result(Pulse(5, 0))
    assert heart.listen(asked) == 0.0
    assert (heart.last, len(asked.futures)) == (Pulse(5, 0), 2)


def test_a_heartbeat_that_fails_is_no_answer_and_no_error(heart: Heart, asked: Asked) -> None:
    heart.listen(asked)
    asked.futures[0].set_exception(RuntimeError("gone"))
    assert heart.listen(asked) == 0.0
    assert heart.last is None


def test_a_stopped_process_is_lost_at_once(heart: Heart, asked: Asked, clock: Clock) -> None:
    heart.listen(asked)
    clock.seconds = 8.0
    assert "stopped (SIGSTOP)" in str(heart.judge(Condition(stopped=True, cpu=1.0)))


def test_a_process_that_computes_nothing_is_lost_after_the_timeout(heart: Heart, asked: Asked, clock: Clock) -> None:
    heart.listen(asked)
    for clock.seconds in (8.0, 16.0, 24.0):
        assert heart.judge(Condition(stopped=False, cpu=7.0)) is None
    clock.seconds = 32.0
    assert heart.judge(Condition(stopped=False, cpu=7.1)) == ("its process hangs: no heartbeat and no work for 32 s")


def test_a_process_that_computes_is_waited_for_until_it_stops_computing(
    heart: Heart, asked: Asked, clock: Clock
) -> None:
    heart.listen(asked)
    for clock.seconds in range(8, 400, 8):
        assert heart.judge(Condition(stopped=False, cpu=clock.seconds / 2)) is None
    last = clock.seconds / 2
    clock.seconds += 31.0
    assert "hangs" in str(heart.judge(Condition(stopped=False, cpu=last)))


@pytest.mark.parametrize(("condition", "text"), [(None, "its process is gone"), ("silent", "its machine has not")])
def test_a_process_or_machine_that_is_gone_has_the_timeout_for_ray_to_notice(
    heart: Heart, asked: Asked, clock: Clock, condition: None, text: str
) -> None:
    heart.listen(asked)
    clock.seconds = 29.0
    assert heart.judge(condition) is None
    clock.seconds = 30.0
    assert text in str(heart.judge(condition))


def test_the_system_knows_whether_a_process_is_stopped() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        try:
            running = condition_of(process.pid)
            os.kill(process.pid, signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            stopped = condition_of(process.pid)
        finally:
            process.kill()
    assert running is not None and not running.stopped
    assert stopped is not None and stopped.stopped
    assert condition_of(process.pid) is None


def test_a_heartbeat_tells_the_memory_of_its_process() -> None:
    assert own_pulse().memory == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)


def test_heartbeats_that_fail_in_a_row_are_counted_and_one_that_comes_ends_the_row(heart: Heart, asked: Asked) -> None:
    heart.listen(asked)
    for number in (1, 2):
        asked.futures[-1].set_exception(RuntimeError("unavailable"))
        heart.listen(asked)
        assert (heart.failures, str(heart.failure)) == (number, "unavailable")
    asked.futures[-1].set_result(own_pulse())
    heart.listen(asked)
    assert (heart.failures, heart.failure) == (0, None)
