"""Starts of a miniature's command: how one ended, and when another follows."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayalign.config import Job
from rayalign.rehearsal import running
from rayalign.rehearsal.running import Ending, SmallRun

BROKEN = Ending(1, "Traceback ...\npsutil.ZombieProcess: gone", False, 1.0)
REFUSED = Ending(1, "sft ...\nrayalign: policy (pid 7) died: killed\nrayalign: for memory", False, 1.0)
WELL = Ending(0, "report: report.html", False, 1.0)


def test_the_message_is_what_the_command_said_else_its_last_line() -> None:
    assert REFUSED.message == "rayalign: policy (pid 7) died: killed rayalign: for memory"
    assert BROKEN.message == "psutil.ZombieProcess: gone"
    assert Ending(1, "", False, 1.0).message == "it printed nothing"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[SmallRun, list[Ending]]]:
    """A run whose starts end as the list says."""
    stages = {"base": {"kind": "pretrain"}}
    small = SmallRun(Job.model_validate({"name": "small", "output": str(tmp_path), "stages": stages}), tmp_path / "x")
    endings: list[Ending] = []
    monkeypatch.setattr(small, "_start", lambda strike: endings.pop(0))
    yield small, endings


def test_what_broke_before_any_stage_is_started_once_more(run: tuple[SmallRun, list[Ending]]) -> None:
    small, endings = run
    endings += [BROKEN, WELL]
    assert small.start() == WELL
    endings += [BROKEN, BROKEN, WELL]
    assert small.start() == BROKEN, "once, not for ever"


def test_a_refusal_is_final(run: tuple[SmallRun, list[Ending]]) -> None:
    small, endings = run
    endings += [REFUSED, WELL]
    assert small.start() == REFUSED


def test_what_broke_in_a_stage_is_a_finding(run: tuple[SmallRun, list[Ending]], tmp_path: Path) -> None:
    small, endings = run
    endings += [BROKEN, WELL]

    def break_in_a_stage(strike: object) -> Ending:
        (tmp_path / "small").mkdir()
        (tmp_path / "small" / "events.jsonl").write_text('{"event": "stage_started", "stage": "base"}\n')
        return endings.pop(0)

    small._start = break_in_a_stage  # type: ignore[method-assign]
    assert small.start() == BROKEN


def test_a_start_without_end_is_ended_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: tuple[SmallRun, list[Ending]]
) -> None:
    waits = "print('waiting', flush=True); import time; time.sleep(600)"
    monkeypatch.setattr(running, "_COMMAND", [sys.executable, "-c", waits])
    monkeypatch.setattr(running, "LIMIT", 1.0)
    job = run[0].job
    ending = SmallRun(job, tmp_path / "x").start()
    assert ending.exceeded and ending.code < 0 and not ending.struck
    assert "the miniature's run did not end within" in ending.message


def test_a_start_without_end_is_not_started_once_more(run: tuple[SmallRun, list[Ending]]) -> None:
    small, endings = run
    late = Ending(-9, "sft ...", False, 3600.0, exceeded=True)
    endings += [late, WELL]
    assert small.start() == late
    assert late.message.startswith("the miniature's run did not end within 3600 s (the last it printed: sft ...)")


def test_a_process_that_has_ended_was_not_killed() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert running._kill(ended.pid) is False
    assert running._kill(None) is False
    going_on = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    assert running._kill(going_on.pid) is True
    assert going_on.wait() == -signal.SIGKILL
