"""PPO, GRPO, DPO, reward training and SFT against TRL: seconds a step, samples/s, tokens/s, first step, memory.

    .venv/bin/python -m benchmarks.vs_trl [ROW ...] [--turns N] [--steps N] [--iterations N] [--inputs FOLDER]

RAYALIGN_TRL names a Python with TRL 1.16, RAYALIGN_TRL_PPO one with TRL 1.12, the last version with PPO. Both sides
train the same model of 1M parameters on the same rows, in fp32 with two threads in all. TRL runs in two layouts: one
process of two threads, and two processes of one thread. All sides take turns. Memory is the proportional set size of
all processes. Rows of other runs stay in results/vs_trl.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.job_run import JobRun, peak_memory
from benchmarks.record import RESULTS, record
from benchmarks.trl_side import CANDIDATES, LEARNING_RATE, LONGEST_ANSWER, MINIBATCHES, PROMPTS, SEQUENCES
from benchmarks.vs_trl_inputs import CONTEXT, make_inputs, mean_tokens

ROWS = ("ppo", "grpo", "dpo", "reward", "sft")
ONLINE = ("ppo", "grpo")
BLOCK = 16
"""steps whose metrics an offline stage writes at once"""
WARM_ITERATIONS = 2
LIMITS = {"ppo": 0.7, "grpo": 0.7, "dpo": 1.0, "reward": 1.0, "sft": 1.0, "first_step": 3.0, "memory": 2.5}
"""the largest ratio to TRL's best layout"""
LAYOUTS = {"trl_1x2": (1, 2), "trl_2x1": (2, 1)}
"""processes, and threads of each"""
HEADER = """\
name: {row}
output: {output}
rollout: {{engines: 2, context: {context}}}
stages:
  {row}:
    kind: train
    model: {inputs}/policy
    roles: {roles}
    learner: {{minibatch: {sequences}, learning_rate: {rate}}}
"""
OFFLINE = """\
    algorithm: {{name: {row}}}
    data: {{format: {format}, path: {inputs}/{file}.jsonl}}
    steps: {steps}
"""
STAGE_ONLINE = """\
    algorithm: {{name: {row}, epochs: 1}}
    reward: {inputs}/reward
    data: {{format: prompts, path: {inputs}/prompts.jsonl}}
    candidates: [{{source: live, count: {candidates}}}]
    sampling: {{max_tokens: {longest}}}
    prompts: {prompts}
    iterations: {steps}
    checkpoint_every: 100000
"""


def job_text(row: str, inputs: Path, output: Path, steps: int) -> str:
    """The job of a row."""
    offline = {"dpo": ("comparisons", "pairs"), "reward": ("comparisons", "pairs"), "sft": ("demonstrations",) * 2}
    data_format, file = offline.get(row, ("", ""))
    # One rank for each core; PPO's cores are taken by the policy and the critic, which learn side by side.
    role = "reward" if row == "reward" else "policy"
    # GRPO's reference runs in the policy's ranks, since actors of its own would compete for the two cores.
    reference = ", reference: {within: policy}" if row == "grpo" else ""
    roles = "{}" if row == "ppo" else f"{{{role}: {{actors: 2}}{reference}}}"
    text = HEADER + (STAGE_ONLINE if row in ONLINE else OFFLINE)
    return text.format(
        row=row,
        output=output,
        inputs=inputs,
        steps=steps,
        roles=roles,
        format=data_format,
        file=file,
        context=CONTEXT,
        sequences=SEQUENCES,
        rate=LEARNING_RATE,
        candidates=CANDIDATES,
        longest=LONGEST_ANSWER,
        prompts=PROMPTS,
    )


def measure_rayalign(row: str, inputs: Path, steps: int, prompt_tokens: float) -> dict[str, float]:
    """One job of the row, and for offline rows a job of one step before it."""
    tree = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "first").mkdir()
        first = None
        if row not in ONLINE:
            short = JobRun(tree, row, job_text(row, inputs, folder / "first" / "runs", 1), folder / "first")
            first = short.first_steps(row)[row]
            short.ends()
        run = JobRun(tree, row, job_text(row, inputs, folder / "runs", steps), folder)
        first = first or run.first_steps(row)[row]
        memory = run.memory()
        run.ends()
        metrics = [entry for entry in run.metrics(row) if "learner/tokens" in entry["metrics"]]
    if row in ONLINE:
        metrics = metrics[WARM_ITERATIONS:]
        seconds = statistics.median(entry["metrics"]["phase/total"] for entry in metrics)
        answers = statistics.mean(entry["metrics"]["rollout/tokens"] for entry in metrics)
        tokens = prompt_tokens * PROMPTS * CANDIDATES + answers
    else:
        times = sorted({entry["time"] for entry in metrics[BLOCK - 1 :: BLOCK]})
        seconds = statistics.median(after - before for before, after in pairwise(times)) / BLOCK
        tokens = statistics.mean(entry["metrics"]["learner/tokens"] for entry in metrics)
    return {"seconds": seconds, "tokens": tokens, "first_step": first, "memory_gib": memory / 2**30}


def measure_trl(row: str, layout: str, inputs: Path, steps: int, tokens: float) -> dict[str, Any]:
    """One training of the row by TRL.

    Args:
        tokens: of an optimizer step; of an online row they are counted in the run.
    """
    python = os.environ["RAYALIGN_TRL_PPO" if row == "ppo" else "RAYALIGN_TRL"]
    processes, threads = LAYOUTS[layout]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": str(threads), "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
    launcher = [python]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    with tempfile.TemporaryDirectory() as scratch:
        environment |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_DATASETS_CACHE": scratch}  # nothing of an earlier run
        output, log = Path(scratch) / "figures.json", Path(tempfile.gettempdir()) / f"vs_trl-{row}-{layout}.log"
        script = [str(Path(__file__).with_name("trl_side.py")), row, str(inputs), str(output), str(steps)]
        begin = time.time()
        with log.open("w") as file:
            process = subprocess.Popen([*launcher, *script], env=environment, stdout=file, stderr=subprocess.STDOUT)
            memory = peak_memory(process)
        if process.returncode:
            raise SystemExit(f"TRL's {row} failed; see {log}")
        report = json.loads(output.read_text())
    if row in ONLINE:
        tokens = sum(report["tokens"]) / steps
    return {
        "seconds": step_seconds(row, report["ends"]),
        "tokens": tokens,
        "first_step": report["ends"][0] - begin,
        "memory_gib": memory / 2**30,
        "versions": report["versions"],
        "precision": report["precision"],
    }


def step_seconds(row: str, ends: Sequence[float]) -> float:
    """The median over blocks of steps, or over iterations, of which GRPO has several optimizer steps."""
    length = MINIBATCHES if row == "grpo" else 1 if row in ONLINE else BLOCK
    block_ends = ends[length - 1 :: length]
    warm = WARM_ITERATIONS if row in ONLINE else 1
    durations = [after - before for before, after in pairwise(block_ends[warm - 1 :])]
    return statistics.median(durations) / (1 if row in ONLINE else BLOCK)


def summary(row: str, turns: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Medians of the turns, rates, and ratios to TRL's best layout in each figure."""
    samples = PROMPTS * CANDIDATES if row in ONLINE else SEQUENCES
    sides: dict[str, dict[str, float]] = {}
    for side in turns[0]:
        figures = ("seconds", "tokens", "first_step", "memory_gib")
        medians = {name: statistics.median(turn[side][name] for turn in turns) for name in figures}
        medians["samples_per_second"] = samples / medians["seconds"]
        medians["tokens_per_second"] = medians["tokens"] / medians["seconds"]
        sides[side] = {name: round(value, 4) for name, value in medians.items()}
    ours, ratios = sides["rayalign"], {}
    for name in ("seconds", "first_step", "memory_gib"):
        best = min(sides[layout][name] for layout in LAYOUTS)
        ratios[name] = round(ours[name] / best, 3)
    rates = (sides[layout]["tokens_per_second"] for layout in LAYOUTS)
    ratios["tokens_per_second"] = round(ours["tokens_per_second"] / max(rates), 3)
    return {"sides": sides, "times_trl": ratios, "turns": list(turns), "load": os.getloadavg()[0]}


def main() -> None:
    """Measure the rows that are named, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*", default=ROWS)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4 * BLOCK, help="optimizer steps of an offline row")
    parser.add_argument("--iterations", type=int, default=WARM_ITERATIONS + 6, help="of an online row")
    parser.add_argument("--inputs", type=Path, default=Path(tempfile.gettempdir()) / "rayalign-vs-trl")
    options = parser.parse_args()
    if not (options.inputs / "prompts.jsonl").exists():
        make_inputs(options.inputs)
    means, path = mean_tokens(options.inputs), RESULTS / "vs_trl.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else {}
    kinds = {"sft": "demonstrations", "dpo": "pairs", "reward": "pairs"}
    for row in options.rows:
        steps, mean = options.iterations if row in ONLINE else options.steps, means[kinds.get(row, "prompts")]
        turns = []
        for _ in range(options.turns):
            turn = {"rayalign": measure_rayalign(row, options.inputs, steps, mean)}
            for layout in LAYOUTS:
                turn[layout] = measure_trl(row, layout, options.inputs, steps, mean * SEQUENCES)
            turns.append(turn)
            print(row, json.dumps(turn), file=sys.stderr, flush=True)
        rows[row] = summary(row, turns)
        record("vs_trl", {"limits": LIMITS, "mean_tokens": means, "rows": rows})


if __name__ == "__main__":
    main()
