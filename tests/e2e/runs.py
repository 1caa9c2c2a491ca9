"""One small job with every kind of stage, run through the command line as a user runs it, and interrupted at will."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from rayalign.storage.journal import Accounting, Journal
from rayalign.storage.records import read_jsonl

_JOB = (
    """\
name: tiny
cluster: {cpus: 2, object_store: 134217728, call_timeout: 300}
rollout: {engine: vllm, engines: 2, context: 96, max_sequences: 32, cache_bytes: 33554432}
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
  late: {algorithm: {name: ppo, epochs: 1}, iterations: 16, checkpoint_every: 2, max_staleness: 1, ONLINE,
    mix: {algorithm: {name: sft}, data: {limit: 64}}}
  rrhf: {algorithm: {name: rrhf}, iterations: 2, overlap: {extra_prompts: 1}, SCORED}
  final:
    kind: evaluate
    models: {sft: stage:sft, ppo: stage:ppo, late: stage:late, rrhf: stage:rrhf}
    annotator: pool
    baselines: [constant, oracle]
    data: {limit: 32}
    sampling: {max_tokens: 24}
    perplexity: stage:base
""".replace("MIX", "{algorithm: {name: sft}, data: {limit: 64}, samples: 8}")
    .replace("SCORED", "reward: annotator:gold, WRITTEN")
    .replace("ONLINE", "reward: stage:rm, WRITTEN")
)
JOB = _JOB.replace(
    "WRITTEN",
    "kind: train, model: stage:sft, candidates: [{source: live, count: 2}], prompts: 8, "
    "sampling: {max_tokens: 24}, learner: {learning_rate: 1e-3, minibatch: 8ADAPTER}",
)
ADAPTED = "late"
"""the stage that trains adapters, of its policy and its critic, keeps their average, and mixes demonstrations in"""
JOB = "\n".join(
    line.replace("ADAPTER", ", lora: {rank: 4, alpha: 8}, ema: 0.9" if line.startswith(f"  {ADAPTED}:") else "")
    for line in JOB.splitlines()
)
STAGES = ("base", "sft", "answers", "labels", "rm", "ppo", "late", "rrhf", "final")
PROMPTS = 8
ITERATIONS = {"ppo": 6, "late": 16, "rrhf": 2}


Row = dict[str, Any]


HALT = """
import os, signal, sys

halted = []
MADE = {"os.mkdir": 0, "os.rename": 1}

def halt(event, arguments):
    if event in MADE and not halted and str(arguments[MADE[event]]).endswith(os.environ["RAYALIGN_TEST_HALT"]):
        halted.append(True)
        os.kill(os.getpid(), signal.SIGSTOP)

sys.addaudithook(halt)
"""
"""what every process of a run that is to be struck loads first"""


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
        _, alive = psutil.wait_procs(self.processes, timeout=300)
        return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@dataclass
class Run:
    """A run folder, and the command that fills it."""

    output: Path
    job: Path

    @property
    def folder(self) -> Path:
        return self.output / "tiny"

    def finish(self, *overrides: str) -> Ending:
        """The command, undisturbed."""
        return self._start(None, *overrides)

    def strike(self, number: int, role: str, stage: str, checkpoint: int, *overrides: str) -> Ending:
        """The command, with a signal to a role's process (or the `driver`) when a stage begins a checkpoint.

        Whoever begins it halts there until the signal was sent, so that no stall of the machine makes it come late.
        """
        return self.strike_at(number, role, f"{stage}/checkpoints/.iteration-{checkpoint:06d}.tmp", *overrides)

    def strike_at(self, number: int, role: str, path: str, *overrides: str) -> Ending:
        """The command, with a signal when somebody makes the folder, or puts the file in its place, that ends so."""
        return self._start((number, role, path), *overrides)

    def events(self, kind: str | None = None) -> list[Row]:
        """All events, or those of one kind, each with the stage that was going on."""
        rows, stage, path = [], None, self.folder / "events.jsonl"
        for row in read_jsonl(path, growing=True) if path.exists() else ():
            stage = row["stage"] if row["event"] == "stage_started" else stage
            if kind in (None, row["event"]):
                rows.append({"stage": stage, **row})
        return rows

    def _start(self, blow: tuple[int, str, str] | None, *overrides: str) -> Ending:
        command = [str(Path(sys.executable).with_name("rayalign")), "run", str(self.job), f"output={self.output}"]
        command += overrides
        before, struck, processes = len(self.events()), 0, list[psutil.Process]()
        with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryDirectory() as loaded:
            environment = dict(os.environ)
            if blow is not None:
                (Path(loaded) / "sitecustomize.py").write_text(HALT)
                path = os.pathsep.join(filter(None, (loaded, os.environ.get("PYTHONPATH"))))
                environment |= {"RAYALIGN_TEST_HALT": blow[2], "PYTHONPATH": path}
            # A shell in the background ignores Ctrl-C, and so would everything that it starts.
            running = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, preexec_fn=_heed_interrupts
            )
            try:
                if blow is not None:
                    processes, halted = _halted(running)
                    struck = running.pid if blow[1] == "driver" else self._process(blow[1])
                    os.kill(struck, blow[0])
                    with suppress(psutil.NoSuchProcess):
                        halted.resume()
                code = running.wait(900)
            finally:
                running.kill()
            log.seek(0)
            text = log.read()
        begun = [row["stage"] for row in self.events()[before:] if row["event"] == "stage_started"]
        return Ending(code, text, begun, processes, struck)

    def _process(self, role: str) -> int:
        """The process that a role has now."""
        pid: int = [row["actor_pid"] for row in self.events("actor_started") if row["role"] == role][-1]
        return pid


def _halted(running: subprocess.Popen[bytes]) -> tuple[list[psutil.Process], psutil.Process]:
    """All processes of the command, once one of them has halted; and that one."""
    driver, deadline = psutil.Process(running.pid), time.monotonic() + 900
    while True:
        assert running.poll() is None, "it ended before it could be struck"
        assert time.monotonic() < deadline, "it took too long"
        processes = [driver, *driver.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                if process.status() == psutil.STATUS_STOPPED:
                    return processes, process
        time.sleep(0.1)


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def accounts(run: Run, stage: str) -> Accounting:
    """What became of every group of a stage."""
    with closing(Journal(run.folder / "journal" / f"{stage}.jsonl")) as journal:
        return Accounting.of(journal.replay(effective=True))


def ran(text: str, folder: Path) -> Run:
    """A job run to its end without any disturbance."""
    (folder / "job.yaml").write_text(text)
    run = Run(folder / "runs", folder / "job.yaml")
    ending = run.finish()
    assert ending.code == 0, ending.text
    return run


def records(run: Run, stage: str) -> list[dict[str, Any]]:
    """The rows that a stage has written."""
    return list(read_jsonl(run.folder / "stages" / stage / "records.jsonl"))
