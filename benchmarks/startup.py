"""Seconds from the command to the first training step, seconds between two stages, and memory, of jobs that end soon.

`python -m benchmarks.startup` measures this checkout, `python -m benchmarks.startup OLDER` also the first stages
of another one, by turns. Where RAYALIGN_TRL names a Python that has TRL, a first step of its SFT and reward training is
measured beside them. Memory is the proportional set size of all processes of the PPO job, after its first step.
"""

from __future__ import annotations

import compileall
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks.record import record

TRL = os.environ.get("RAYALIGN_TRL")
TURNS = int(os.environ.get("RAYALIGN_TURNS", "1"))
PAIRS = 256
SFT_STEPS = 64
"""of the chain of stages: some ten seconds, in which what comes next can start"""
LIMITS = {"sft": 9.0, "ppo": 18.0, "later": 4.0, "ppo_memory_gib": 3.0}
LONGEST = 180.0
"""seconds until a job must have taken its first step"""
HEADER = """\
name: {name}
output: {output}
rollout: {{engines: 2, context: 96}}
stages:
"""
SFT = """\
  sft: {{kind: train, algorithm: {{name: sft}}, model: {model}, data: {{split: sft, limit: 2000}}, steps: {sft_steps},
        learner: {{minibatch: 32, micro_tokens: 1024}}}}
"""
REWARD = """\
  rm: {{kind: train, algorithm: {{name: reward}}, model: {model}, steps: 1,
       data: {{format: comparisons, path: {pairs}}}, learner: {{minibatch: 32, micro_tokens: 1024}}}}
"""
PPO = """\
  ppo: {{kind: train, algorithm: {{name: ppo, epochs: 1}}, model: {model}, reward: {reward}, data: {{split: train}},
        candidates: [{{source: live, count: 4}}], prompts: 32, iterations: 3,
        learner: {{minibatch: 64, micro_tokens: 1024}}}}
"""
JOBS = {"sft": SFT, "rm": REWARD, "ppo": PPO, "chain": SFT + REWARD + PPO}


def make_inputs(folder: Path) -> dict[str, str]:
    """A language model and a reward model of the preset's shape, with random weights, and pairs of answers."""
    from rayalign.config import DataConfig, LearnerConfig
    from rayalign.data.chat import load_tokenizer
    from rayalign.data.paddock.tokenizer import build_tokenizer
    from rayalign.data.readers import load_examples
    from rayalign.models.load import load_scalar, make_preset

    policy, reward, pairs = folder / "policy", folder / "reward", folder / "pairs.jsonl"
    make_preset("nano", build_tokenizer(), 0, policy)
    load_scalar(str(policy), LearnerConfig(), 0).save_pretrained(reward)
    load_tokenizer(str(policy)).save_pretrained(reward)
    examples = load_examples(DataConfig(split="sft", limit=PAIRS + 1), seed=0, use="demonstrations")
    rows = []
    for example, other in pairwise(examples):
        texts = {"chosen": example.candidates[0].text, "rejected": other.candidates[0].text}
        rows.append(json.dumps({"prompt": example.prompt.messages[-1].content, **texts}))
    pairs.write_text("\n".join(rows))
    return {"model": str(policy), "reward": str(reward), "pairs": str(pairs)}


class JobRun:
    """A job that runs in a process of its own, watched from outside."""

    def __init__(self, tree: Path, name: str, folder: Path, **values: Any) -> None:
        output = folder / "runs"
        text = (HEADER + JOBS[name]).format(name=name, output=output, **values)
        job = folder / f"{name}.yaml"
        job.write_text(text)
        self._stages = output / name / "stages"
        self._events = output / name / "events.jsonl"
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
        return sum(map(_cpu, self._tree()))

    def memory(self) -> int:
        """The largest proportional set size of all processes until the job has ended [bytes]."""
        peak = 0
        while self._process.poll() is None:
            peak = max(peak, sum(map(_pss, self._tree())))
            time.sleep(1.0)
        return peak

    def _tree(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        return []

    def _first_step(self, stage: str) -> float | None:
        """When the stage had taken its first step; None before."""
        metrics = self._stages / stage / "metrics.jsonl"
        if stage != "ppo":
            stepped = metrics.exists() and '"loss/' in metrics.read_text()
            return time.time() if stepped else None
        updates = [row["time"] for row in self._rows() if row["event"] == "phase" and row["name"] == "update"]
        return updates[0] if updates else None

    def _rows(self) -> list[dict[str, Any]]:
        if not self._events.exists():
            return []
        lines = self._events.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _wait(self, look: Callable[[], Any]) -> Any:
        limit = time.time() + LONGEST
        while not (value := look()):
            if self._process.poll() or time.time() > limit:
                self._process.kill()
                raise SystemExit(f"the job failed or took too long; see {self._log.name}")
            time.sleep(0.05)
        return value


def _pss(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0


def _cpu(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def measure_starts(tree: Path, inputs: dict[str, str], folder: Path) -> dict[str, float]:
    """Jobs of one stage, from nothing."""
    figures: dict[str, float] = {}
    for name in ("sft", "rm", "ppo"):
        run = JobRun(tree, name, folder, sft_steps=1, **inputs)
        figures |= run.first_steps(name)
        figures[f"{name}_cpu"] = run.cpu_seconds()
        if name == "ppo":
            figures["ppo_memory_gib"] = run.memory() / 2**30
        run.ends()
    return figures


def measure_chain(tree: Path, inputs: dict[str, str], folder: Path) -> dict[str, float]:
    """From the end of a stage to the first step of the next one."""
    chain = JobRun(tree, "chain", folder, sft_steps=SFT_STEPS, **inputs)
    steps, ends = chain.first_steps("rm", "ppo"), chain.ends()
    return {"later_rm": steps["rm"] - ends["sft"], "later_ppo": steps["ppo"] - ends["rm"], "chain": max(ends.values())}


def measure_trl(python: str, inputs: dict[str, str]) -> dict[str, float]:
    """Seconds of a process that trains one step with TRL, from the same model and pairs."""
    script, figures = str(Path(__file__).with_name("trl_start.py")), {}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for method in ("sft", "rm"):
        command = [python, script, method, inputs["model"], inputs["pairs"]]
        begin = time.time()
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=LONGEST)
        figures[method] = time.time() - begin
    return figures


def main() -> None:
    """Measure this checkout, and an older one and TRL beside it."""
    trees = {"now": Path(__file__).parents[1], **({"before": Path(sys.argv[1]).resolve()} if sys.argv[1:] else {})}
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    with tempfile.TemporaryDirectory() as scratch:
        inputs = make_inputs(Path(scratch))
        for turn in range(TURNS):
            if TRL:
                turns.setdefault("trl", []).append(measure_trl(TRL, inputs))
            for name, tree in trees.items():
                compileall.compile_dir(tree / "rayalign", quiet=1)
                folder = Path(scratch) / f"{name}-{turn}"
                folder.mkdir()
                turns[name].append(measure_starts(tree, inputs, folder))
                if name == "now":
                    turns[name][-1] |= measure_chain(tree, inputs, folder)
    medians: dict[str, dict[str, float]] = {}
    for name, figures in turns.items():
        medians[name] = {key: round(statistics.median(turn[key] for turn in figures), 2) for key in figures[0]}
    ratios = {method: round(medians["now"][method] / seconds, 2) for method, seconds in medians.get("trl", {}).items()}
    record(
        "startup", {"limits": LIMITS, "sft_steps": SFT_STEPS, "medians": medians, "times_trl": ratios, "turns": turns}
    )


if __name__ == "__main__":
    main()
