from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rayalign.cluster.memory import PeakMemory, _pss


def test_processes_that_are_no_children_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with PeakMemory(tuple) as alone:
        pass
    assert alone.peak > 1 << 20
    seen: list[int] = []
    monkeypatch.setattr("rayalign.cluster.memory._pss", lambda pid: seen.append(pid) or 1)
    with PeakMemory(lambda: [os.getpid(), os.getppid(), 2**22]) as more:
        pass
    assert {os.getpid(), os.getppid()} <= set(seen)
    assert more.peak == len(seen) == len(set(seen))


def test_a_process_has_memory_until_it_ends() -> None:
    command = [sys.executable, "-c", "print(flush=True); input()"]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline()
    assert _pss(other.pid) > 1 << 20
    other.communicate()
    assert _pss(other.pid) == 0
    assert _pss(os.getpid()) > 1 << 20


def test_pages_are_walked_only_where_more_is_resident_than_before(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = iter([100, 90, 100, 101])
    proportional = iter([50, 60])
    monkeypatch.setattr("rayalign.cluster.memory._rss", lambda pid: next(resident))
    monkeypatch.setattr("rayalign.cluster.memory._pss", lambda pid: next(proportional))
    monkeypatch.setattr(PeakMemory, "_running", lambda self: {1})
    memory = PeakMemory(tuple)
    peaks = []
    for _ in range(4):
        memory.look()
        peaks.append(memory.peak)
    assert peaks == [50, 50, 50, 60]
