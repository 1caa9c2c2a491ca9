"""Blows: what happens to which actor, in which phase of an iteration; and what came of it.

    driver process    PhaseClock.phase begins --> the next blow, if it is due --> the signal or the full disk, at once
                      EventLog.write ----------> what the run says of it
    results.jsonl     one line for each blow that is over; the command started again goes on after the last one

A blow is over at the end of the iteration that follows it, so that what is lost in one iteration and noticed in the
next counts to it. A full disk is over when the run ends.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from rayalign.storage.records import Appender, read_jsonl

Kind = Literal["kill", "stop", "slow", "memory", "full"]
ROLES = ("generator", "reward", "reference", "preparer", "policy", "critic")
PHASES = ("generate", "evaluate", "update", "publish")
KINDS: tuple[Kind, ...] = ("kill", "stop", "slow", "memory")
"""of what happens to one process"""
DISK = "disk"
"""in the place of a role: the disk of the run, which all roles share"""
CHUNKS = (1 << 20, 1 << 12, 1)
"""bytes by which a disk is filled, until not one more has room"""
SLOW_SECONDS = 4.0
"""for which a slow process runs a fifth of the time"""


@dataclass(frozen=True, slots=True)
class Blow:
    """One cell of the matrix."""

    role: str
    phase: str
    kind: Kind


@dataclass(slots=True)
class Result:
    """What came of a blow."""

    role: str
    phase: str
    kind: Kind
    iteration: int
    pid: int
    outcome: str = "went on"
    """or replaced, restarted, ended"""
    reason: str = ""
    """what the run said"""
    noticed: float = 0.0
    """seconds until it said so"""
    seconds: float = 0.0
    """until the blow was over"""
    began: float = field(default_factory=time.monotonic)


class Striker:
    """Deals the blows of a run in this process, and writes down what came of them."""

    def __init__(self, blows: Sequence[Blow], path: Path, disk: Path) -> None:
        """
        Args:
            path: of the results, on a disk that is not struck.
            disk: folder of the run.
        """
        done = len(list(read_jsonl(path, growing=True))) if path.exists() else 0
        self._blows = list(blows[done:])
        self._results = Appender(path)
        self._filler = disk / "filler"
        self._open: Result | None = None
        self._processes: dict[str, int] = {}
        """role -> its process; of several the one that started last"""

    @contextmanager
    def phase(self, name: str, iteration: int) -> Iterator[None]:
        """Around each phase of each iteration."""
        self._begin(name, iteration)
        yield
        last = name == "checkpoint"
        if last and self._open is not None and iteration > self._open.iteration:
            self._close()

    def event(self, name: str, fields: dict[str, Any]) -> None:
        """An event of the run."""
        if name == "actor_started":
            self._processes[fields["role"]] = fields["actor_pid"]
        result = self._open
        if result is None or result.reason or name not in ("actor_lost", "stage_restarted"):
            return
        result.outcome = "restarted" if name == "stage_restarted" else "replaced"
        result.reason = fields["reason"]
        result.noticed = time.monotonic() - result.began

    def ended(self, reason: str) -> None:
        """The run has ended with an error."""
        if self._open is not None:
            result = self._open
            result.outcome, result.reason = "ended", reason
            result.noticed = time.monotonic() - result.began
            self._close()

    def _begin(self, phase: str, iteration: int) -> None:
        if self._open is not None or not self._blows or iteration == 0 or self._blows[0].phase != phase:
            return
        blow = self._blows[0]
        pid = os.getpid() if blow.role == DISK else self._processes[blow.role]
        if not psutil.pid_exists(pid):
            return  # lost by the blow before, and the next one has not started
        del self._blows[0]
        self._open = Result(blow.role, phase, blow.kind, iteration, pid)
        if blow.kind == "full":
            fill(self._filler)
        else:
            strike(pid, blow.kind)

    def _close(self) -> None:
        assert self._open is not None
        result, self._open = self._open, None
        result.seconds = time.monotonic() - result.began
        end(result.pid, result.kind)
        self._filler.unlink(missing_ok=True)
        row = asdict(result)
        del row["began"]
        self._results.append(row)


def strike(pid: int, kind: Kind) -> None:
    """Do it to a process."""
    if kind == "slow":
        threading.Thread(target=_slow_down, args=(pid,), daemon=True).start()
    elif kind == "memory":
        process = psutil.Process(pid)
        limit = process.memory_info().vms // 2  # less than it has, so that what it frees is no room for something new
        _, most = process.rlimit(psutil.RLIMIT_AS)
        process.rlimit(psutil.RLIMIT_AS, (limit, most))
    else:
        os.kill(pid, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)


def end(pid: int, kind: Kind) -> None:
    """So that a process which took no harm takes none while another blow is dealt."""
    if kind == "slow":
        time.sleep(SLOW_SECONDS)
    elif kind == "memory":
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            _, most = process.rlimit(psutil.RLIMIT_AS)
            process.rlimit(psutil.RLIMIT_AS, (most, most))


def fill(filler: Path) -> None:
    """Leave no room on the disk of a file."""
    with filler.open("wb", buffering=0) as file:
        for chunk in CHUNKS:
            with suppress(OSError):
                while True:
                    file.write(bytes(chunk))


def _slow_down(pid: int) -> None:
    end = time.monotonic() + SLOW_SECONDS
    with suppress(ProcessLookupError):
        while time.monotonic() < end:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.2)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.05)


def matrix() -> list[Blow]:
    """All cells of processes: each kind for each role in each phase."""
    blows: list[Blow] = []
    for role in ROLES:
        for phase in PHASES:
            blows += [Blow(role, phase, kind) for kind in KINDS]
    return blows
