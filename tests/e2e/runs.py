"""One small job with every kind of stage, run through the command line as a user runs it, and interrupted at will."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from rayalign.storage.journal import Accounting, Journal
from rayalign.storage.records import read_jsonl

_JOB = """\
name: tiny
cluster: {cpus: 2, object_store: 134217728, call_timeout: 300}
rollout: {engines: 2, context: 96, max_sequences: 32, cache_bytes: 33554432}
stages:
  base: {kind: pretrain, data: {limit: 200}}
  sft:
    kind: train
    algorithm: {name: sft}
    model: stage:base
    data: {split: sft, limit: 128}
    learner: {learning_rate: 1e-3, minibatch: 32}
    holdout: 0.25
  answers:
    kind: generate
    model: stage:sft
    data: {split: preference, limit: 64}
    count: 2
    sampling: {max_tokens: 24}
  labels: {kind: annotate, examples: stage:answers, annotator: careful}
  rm:
    kind: train
    algorithm: {name: reward}
    model: stage:base
    examples: stage:labels
    epochs: 6
    learner: {learning_rate: 1e-3, minibatch: 16}
  ppo: {algorithm: {name: ppo}, iterations: 6, checkpoint_every: 1, deterministic: true, ONLINE}
  late: {algorithm: {name: ppo, epochs: 1}, iterations: 16, checkpoint_every: 2, max_staleness: 1, ONLINE}
  rrhf: {algorithm: {name: rrhf}, iterations: 2, SCORED}
  final:
    kind: evaluate
    models: {sft: stage:sft, ppo: stage:ppo, late: stage:late, rrhf: stage:rrhf}
    annotator: pool
    baselines: [constant, oracle]
    data: {limit: 32}
    sampling: {max_tokens: 24}
    perplexity: stage:base
""".replace("SCORED", "reward: annotator:gold, WRITTEN").replace("ONLINE", "reward: stage:rm, WRITTEN")
JOB = _JOB.replace(
    "WRITTEN",
    "kind: train, model: stage:sft, candidates: [{source: live, count: 2}], prompts: 8, "
    "sampling: {max_tokens: 24}, learner: {learning_rate: 1e-3, minibatch: 8}",
)
STAGES = ("base", "sft", "answers", "labels", "rm", "ppo", "late", "rrhf", "final")
PROMPTS = 8
ITERATIONS = {"ppo": 6, "late": 16, "rrhf": 2}


Row = dict[str, Any]


def updates(stage: str, count: int) -> Callable[[list[Row]], bool]:
    """When a stage has done so many updates."""
    return lambda rows: sum(r["stage"] == stage and r.get("name") == "update" for r in rows) >= count


def started(role: str) -> Callable[[list[Row]], bool]:
    """When a role has its process."""
    return lambda rows: any(r["event"] == "actor_started" and r["role"] == role for r in rows)


@dataclass
class Ending:
    """How one start of the command ended."""

    code: int
    text: str
    stages: list[str]
    """that it began"""
    processes: list[psutil.Process]
    """that were there when it was struck"""
    struck: int
    """process that was struck, 0 for none"""

    @property
    def left_over(self) -> list[psutil.Process]:
        """Processes that do not end by themselves; two small ones of Ray take a minute to see that they are alone."""
        _, alive = psutil.wait_procs(self.processes, timeout=120)
        return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@dataclass
class Run:
    """A run folder, and the command that fills it."""

    output: Path
    job: Path

    @property
    def folder(self) -> Path:
        return self.output / "tiny"

    def finish(self) -> Ending:
        """The command, undisturbed."""
        return self._start(None)

    def strike(self, number: int, role: str, when: Callable[[list[Row]], bool]) -> Ending:
        """The command, with a signal to a role's process (or the `driver`) as soon as its events say so."""
        return self._start((number, role, when))

    def events(self, kind: str | None = None) -> list[Row]:
        """All events, or those of one kind, each with the stage that was going on."""
        rows, stage, path = [], None, self.folder / "events.jsonl"
        for row in read_jsonl(path, growing=True) if path.exists() else ():
            stage = row["stage"] if row["event"] == "stage_started" else stage
            if kind in (None, row["event"]):
                rows.append({"stage": stage, **row})
        return rows

    def _start(self, blow: tuple[int, str, Callable[[list[Row]], bool]] | None) -> Ending:
        command = [str(Path(sys.executable).with_name("rayalign")), "run", str(self.job), f"output={self.output}"]
        before, struck, processes = len(self.events()), 0, list[psutil.Process]()
        with tempfile.TemporaryFile("w+") as log:
            # A shell in the background ignores Ctrl-C, and so would everything that it starts.
            running = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, preexec_fn=_heed_interrupts)
            try:
                if blow is not None:
                    number, role, when = blow
                    self._wait(running, lambda: when(self.events()[before:]))
                    processes = [psutil.Process(running.pid), *psutil.Process(running.pid).children(recursive=True)]
                    struck = running.pid if role == "driver" else self._process(role)
                    os.kill(struck, number)
                code = running.wait(900)
            finally:
                running.kill()
            log.seek(0)
            text = log.read()
        begun = [row["stage"] for row in self.events()[before:] if row["event"] == "stage_started"]
        return Ending(code, text, begun, processes, struck)

    def _wait(self, running: subprocess.Popen[bytes], when: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 900
        while not when():
            assert running.poll() is None, "it ended before it could be interrupted"
            assert time.monotonic() < deadline, "it took too long"
            time.sleep(0.05)

    def _process(self, role: str) -> int:
        """The process that a role has now."""
        pid: int = [row["actor_pid"] for row in self.events("actor_started") if row["role"] == role][-1]
        return pid


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def accounts(run: Run, stage: str) -> Accounting:
    """What became of every group of a stage."""
    with closing(Journal(run.folder / "journal" / f"{stage}.jsonl")) as journal:
        return Accounting.of(journal.replay(effective=True))
