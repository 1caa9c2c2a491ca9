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
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.job_run import LONGEST, JobRun
from benchmarks.record import record

TRL = os.environ.get("RAYALIGN_TRL")
TURNS = int(os.environ.get("RAYALIGN_TURNS", "1"))
PAIRS = 256
SFT_STEPS = 64
"""of the chain of stages: some ten seconds, in which what comes next can start"""
LIMITS = {"sft": 9.0, "ppo": 18.0, "later": 4.0, "ppo_memory_gib": 3.0}
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


def start(tree: Path, name: str, folder: Path, **values: Any) -> JobRun:
    """Begin one of the jobs."""
    text = (HEADER + JOBS[name]).format(name=name, output=folder / "runs", **values)
    return JobRun(tree, name, text, folder)


def measure_starts(tree: Path, inputs: dict[str, str], folder: Path) -> dict[str, float]:
    """Jobs of one stage, from nothing."""
    figures: dict[str, float] = {}
    for name in ("sft", "rm", "ppo"):
        run = start(tree, name, folder, sft_steps=1, **inputs)
        figures |= run.first_steps(name)
        figures[f"{name}_cpu"] = run.cpu_seconds()
        if name == "ppo":
            figures["ppo_memory_gib"] = run.memory() / 2**30
        run.ends()
    return figures


def measure_chain(tree: Path, inputs: dict[str, str], folder: Path) -> dict[str, float]:
    """From the end of a stage to the first step of the next one."""
    chain = start(tree, "chain", folder, sft_steps=SFT_STEPS, **inputs)
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
