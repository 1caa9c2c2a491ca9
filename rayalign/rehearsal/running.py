"""Runs a miniature as a user would, by the command, and interrupts it: the driver and the reward are killed once."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayalign.config import Job
from rayalign.pipeline.kind import trainings_of
from rayalign.pipeline.outputs import run_folder, stage_folder
from rayalign.storage.records import read_jsonl

logger = logging.getLogger(__name__)
LOOK = 0.2
"""seconds between two looks at a run's folder"""
LIMIT = 3600.0
"""seconds that one start of the command may take"""
LAST_LINES = 12
_OWN = "rayalign: "
"""beginning of each line in which the command says what is wrong"""
_COMMAND = [sys.executable, "-c", "from rayalign.cli import main; main()", "run"]


@dataclass(frozen=True, slots=True)
class Ending:
    """How one start of the command ended."""

    code: int
    """0, or below it the signal that ended it"""
    text: str
    """the last lines of what it printed"""
    struck: bool
    """whether something was killed"""
    seconds: float
    exceeded: bool = False
    """whether it was ended because it took longer than its limit"""

    @property
    def is_refusal(self) -> bool:
        """Whether the command said what was wrong; else something broke."""
        return any(line.startswith(_OWN) for line in self.text.splitlines())

    @property
    def message(self) -> str:
        """What the command said was wrong, else its last line."""
        lines = self.text.splitlines()
        if self.exceeded:
            last = lines[-1] if lines else "nothing"
            return (
                f"the miniature's run did not end within {self.seconds:.0f} s (the last it printed: {last}); look for "
                "what waits without end, such as a reward or an environment of your own"
            )
        own = [line for line in lines if line.startswith(_OWN)]
        return " ".join(own) or (lines[-1] if lines else "it printed nothing")


class SmallRun:
    """The run of a miniature, in a folder of its own."""

    def __init__(self, job: Job, file: Path) -> None:
        self.job = job
        self.folder = run_folder(job)
        self._file = file

    def start(self, strike: Callable[[subprocess.Popen[str]], int | None] | None = None) -> Ending:
        """The command until it ends, once interrupted where `strike` names a process.

        A machine that is busy with other work may be too slow for Ray to start, which says nothing of the job: so the
        command is started once more where it ended before any stage began, and not by an error of rayalign.
        """
        before = len(self.events())
        ending = self._start(strike)
        broke = ending.code != 0 and not ending.is_refusal and not ending.exceeded
        if broke and len(self.events()) == before:
            logger.warning("it did not start (%s); once more", ending.message)
            ending = self._start(strike)
        return ending

    def _start(self, strike: Callable[[subprocess.Popen[str]], int | None] | None) -> Ending:
        logger.info("rayalign run %s", self._file)
        begin = time.monotonic()
        struck = exceeded = False
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        environment.pop("CUDA_VISIBLE_DEVICES", None)  # of which Ray would count no more logical devices than there are
        with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
            running = subprocess.Popen(
                [*_COMMAND, str(self._file)],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            try:
                while running.poll() is None and not exceeded:
                    if strike is not None and not struck:
                        struck = _kill(strike(running))
                    time.sleep(LOOK)
                    exceeded = running.poll() is None and time.monotonic() - begin > LIMIT
            finally:
                if running.poll() is None:
                    os.killpg(running.pid, signal.SIGKILL)
                    running.wait(timeout=30)
            log.seek(0)
            text = "\n".join(log.read().splitlines()[-LAST_LINES:])
        return Ending(running.returncode, text, struck, time.monotonic() - begin, exceeded)

    def events(self) -> list[dict[str, Any]]:
        """All events so far, each with the stage that was going on."""
        path, rows, stage = self.folder / "events.jsonl", [], None
        for row in read_jsonl(path, growing=True) if path.exists() else ():
            stage = row["stage"] if row["event"] == "stage_started" else stage
            rows.append({"stage": stage, **row})
        return rows

    def strike_driver(self, stage: str) -> Callable[[subprocess.Popen[str]], int | None]:
        """The driver itself, once a stage has its first checkpoint and goes on."""
        checkpoints = stage_folder(self.job, stage) / "checkpoints"

        def look(running: subprocess.Popen[str]) -> int | None:
            return running.pid if any(checkpoints.glob("iteration-*/manifest.json")) else None

        return look

    def strike_reward(self, stage: str) -> Callable[[subprocess.Popen[str]], int | None]:
        """The process of a stage's reward, once it was given answers to score."""
        before = len(self.events())

        def look(running: subprocess.Popen[str]) -> int | None:
            rows = [row for row in self.events()[before:] if row["stage"] == stage]
            scoring = any(row["event"] == "score_started" for row in rows)
            rewards = [row for row in rows if row["event"] == "actor_started" and row.get("role") == "reward"]
            return rewards[-1]["actor_pid"] if scoring and rewards else None

        return look


def trained_stages(job: Job) -> list[str]:
    """The stages that train, those of the live policy first."""
    trainings = trainings_of(job)
    return sorted(trainings, key=lambda name: not trainings[name].stage.online)


def scored_stages(job: Job) -> Iterator[str]:
    """The stages whose answers a process of its own scores."""
    for name, training in trainings_of(job).items():
        if training.stage.online and "reward" in training.models():
            yield name


def _kill(process: int | None) -> bool:
    """Whether there was a process to kill."""
    if process is None:
        return False
    logger.info("SIGKILL to process %d", process)
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
