"""A job that runs in a process of its own, watched from outside; and the memory of a process with its children."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

LONGEST = 600.0
"""seconds until a job must have taken its first step"""


class JobRun:
    """One run of a job of some tree, which begins when this is made."""

    def __init__(self, tree: Path, name: str, text: str, folder: Path) -> None:
        """
        Args:
            text: of the job file, which names `folder / "runs"` as its output.
        """
        job = folder / f"{name}.yaml"
        job.write_text(text)
        self._stages = folder / "runs" / name / "stages"
        self._events = folder / "runs" / name / "events.jsonl"
        environment = {**os.environ, "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's modules are compiled once, not in every process
        command = [sys.executable, "-c", "from rayalign.cli import main; main()", "run", str(job)]
        self._begin = time.time()
        self._log = (folder / f"{name}.log").open("w")
        self._process = subprocess.Popen(command, env=environment, cwd=tree, stdout=self._log, stderr=subprocess.STDOUT)

    def first_steps(self, *stages: str) -> dict[str, float]:
        """Seconds from the command to the end of the first optimizer step of each stage."""
        return {stage: self._wait(lambda stage=stage: self._first_step(stage)) - self._begin for stage in stages}  # type: ignore[misc]

    def ends(self) -> dict[str, float]:
        """Seconds from the command to the end of each stage, once the job has ended."""
        self._wait(lambda: self._process.poll() is not None)
        self._log.close()
        rows = [row for row in self._rows() if row["event"] == "stage_finished"]
        return {row["stage"]: row["time"] - self._begin for row in rows}

    def cpu_seconds(self) -> float:
        """What all its processes have used until now."""
        return sum(map(_cpu, _tree(self._process.pid)))

    def memory(self) -> int:
        """The largest proportional set size of all processes until the job has ended [bytes]."""
        return peak_memory(self._process)

    def metrics(self, stage: str) -> list[dict[str, Any]]:
        """The rows of a stage's metrics, each with its `time`."""
        return _read(self._stages / stage / "metrics.jsonl")

    def _first_step(self, stage: str) -> float | None:
        """When the stage had taken its first step; None before."""
        updates = [row["time"] for row in self._rows() if row["event"] == "phase" and row["name"] == "update"]
        if updates:
            return float(updates[0])
        metrics = self._stages / stage / "metrics.jsonl"
        stepped = metrics.exists() and '"loss/' in metrics.read_text()
        return time.time() if stepped else None

    def _rows(self) -> list[dict[str, Any]]:
        return _read(self._events)

    def _wait(self, look: Callable[[], Any]) -> Any:
        limit = time.time() + LONGEST
        while not (value := look()):
            if self._process.poll() or time.time() > limit:
                self._process.kill()
                raise SystemExit(f"the job failed or took too long; see {self._log.name}")
            time.sleep(0.05)
        return value


def peak_memory(process: subprocess.Popen[Any]) -> int:
    """The largest proportional set size of a process with its children until it has ended [bytes]."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(_pss, _tree(process.pid))))
        time.sleep(1.0)
    return peak


def _tree(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def _pss(process: psutil.Process) -> int:
    """From the kernel's own sum, which costs a hundredth of reading every mapping."""
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def _cpu(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _read(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a JSONL file that may still grow."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
