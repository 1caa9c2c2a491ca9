from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray
from ray._private import utils
from ray.util.placement_group import placement_group, placement_group_table

from rayalign.cluster.ray_2_60 import STARTS, keep_sigterm_handler, remove_placement_groups, start_node
from rayalign.errors import DeadlineError


class Starts:
    """`ray.init` that fails so often, each time with a process of Ray left behind."""

    def __init__(self, folder: Path, failures: int, message: str) -> None:
        self.command = [str(folder / "ray" / "sleep"), "600"]
        self.failures = failures
        self.message = message
        self.processes: list[psutil.Process] = []
        self._children: list[subprocess.Popen[bytes]] = []
        """kept, since one that is let go takes an ended process with it"""

    def __call__(self) -> None:
        self._children.append(subprocess.Popen(self.command))
        self.processes.append(psutil.Process(self._children[-1].pid))
        self._await_command(self.processes[-1])
        if len(self.processes) <= self.failures:
            raise Exception(self.message)

    @staticmethod
    def _await_command(process: psutil.Process) -> None:
        """Wait until the process has the name of its command, as Ray's have long before a start fails.

        A new process has an empty command line for a moment, which lasts on a busy machine.
        """
        ends = time.monotonic() + 30.0
        with suppress(psutil.ZombieProcess):  # it has ended already
            while not process.cmdline():
                assert time.monotonic() < ends, "the process has no command after 30 s"
                time.sleep(0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "sleep").symlink_to(shutil.which("sleep") or "/bin/sleep")
    return tmp_path


@pytest.fixture
def timed_out() -> str:
    return "The current node timed out during startup. This could happen because the GCS has become overloaded."


def test_a_node_that_starts_too_slowly_is_started_again(folder: Path, timed_out: str) -> None:
    starts = Starts(folder, 2, timed_out)
    start_node(starts)
    *failed, started = starts.processes
    assert [process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in failed] == [False, False]
    assert started.is_running()
    started.kill()


def test_a_process_that_has_ended_meanwhile_stops_no_further_start(folder: Path, timed_out: str) -> None:
    starts = Starts(folder, 1, timed_out)
    starts.command = [shutil.which("true") or "/bin/true"]

    def start() -> None:
        try:
            starts()
        finally:
            while starts.processes[-1].status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)

    start_node(start)
    assert len(starts.processes) == 2


def test_a_machine_that_stays_too_busy_is_one_sentence_and_leaves_nothing(folder: Path, timed_out: str) -> None:
    always = Starts(folder, STARTS, timed_out)
    with pytest.raises(DeadlineError, match=f"within Ray's 30 s in {STARTS} starts; the machine is too busy"):
        start_node(always)
    assert len(always.processes) == STARTS
    assert all(process.status() == psutil.STATUS_ZOMBIE for process in always.processes if process.is_running())


def test_any_other_error_is_raised_at_once(folder: Path) -> None:
    other = Starts(folder, 1, "no such option")
    with pytest.raises(Exception, match="no such option"):
        start_node(other)
    assert len(other.processes) == 1
    other.processes[0].kill()


def test_a_handler_of_sigterm_outlives_the_start_of_ray() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with keep_sigterm_handler():
            utils.set_sigterm_handler(lambda *_: None)
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with keep_sigterm_handler():
            utils.set_sigterm_handler(print)
        assert signal.getsignal(signal.SIGTERM) is print, "a process without one has Ray's"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_beneath_python_does_not_outlive_it(tmp_path: Path) -> None:
    """Ray's aborts the process 3 s after the signal."""
    before = signal.getsignal(signal.SIGTERM)
    with (tmp_path / "dump").open("w+") as dump:
        try:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            with keep_sigterm_handler():
                faulthandler.register(signal.SIGTERM, dump)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5.0)
            assert dump.read() == ""
        finally:
            faulthandler.unregister(signal.SIGTERM)
            signal.signal(signal.SIGTERM, before)


class Creator:
    """An actor with a placement group."""

    def create(self) -> str:
        group = placement_group([{"CPU": 1.0}])
        ray.get(group.ready(), timeout=60)
        return str(group.id.hex())


@pytest.mark.ray
def test_what_a_killed_actor_had_placed_is_free_again(ray_session: None) -> None:
    actors = [ray.remote(Creator).options(num_cpus=0).remote() for _ in range(2)]
    killed, kept = ray.get([actor.create.remote() for actor in actors], timeout=60)
    ray.kill(actors[0])
    assert placement_group_table()[killed]["state"] == "CREATED", "Ray removes it by itself: remove ours"
    remove_placement_groups([actors[0]._actor_id.hex()])
    assert placement_group_table()[killed]["state"] == "REMOVED"
    assert placement_group_table()[kept]["state"] == "CREATED"
    ray.kill(actors[1])
    remove_placement_groups([actors[1]._actor_id.hex()])
