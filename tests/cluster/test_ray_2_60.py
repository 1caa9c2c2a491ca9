from __future__ import annotations

import subprocess

import psutil
import pytest

from rayalign.cluster.ray_2_60 import STARTS, start_node

SLEEP = ["sleep", "600"]


class Starts:
    """`ray.init` that fails so often, each time with a process left behind."""

    def __init__(self, failures: int, message: str) -> None:
        self.failures = failures
        self.message = message
        self.processes: list[psutil.Process] = []

    def __call__(self) -> None:
        self.processes.append(psutil.Process(subprocess.Popen(SLEEP).pid))
        if len(self.processes) <= self.failures:
            raise Exception(self.message)


@pytest.fixture
def timed_out() -> str:
    return "The current node timed out during startup. This could happen because the GCS has become overloaded."


def test_a_node_that_starts_too_slowly_is_started_again(timed_out: str) -> None:
    starts = Starts(2, timed_out)
    start_node(starts)
    *failed, started = starts.processes
    assert [process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in failed] == [False, False]
    assert started.is_running()
    started.kill()


def test_the_last_failure_and_any_other_error_are_raised(timed_out: str) -> None:
    always = Starts(STARTS, timed_out)
    with pytest.raises(Exception, match="timed out during startup"):
        start_node(always)
    assert len(always.processes) == STARTS
    other = Starts(1, "no such option")
    with pytest.raises(Exception, match="no such option"):
        start_node(other)
    assert len(other.processes) == 1
    for process in (always.processes[-1], other.processes[0]):
        process.kill()
