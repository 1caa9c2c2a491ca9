"""Seconds of a PPO iteration and of its rollouts: this checkout against an older one, by turns in one run.

python -m benchmarks.iteration_before OLDER [--turns N]

Both train the same models of random weights on the embedded world's prompts: 32 prompts with 4 answers each, two
engines, one policy and one critic. The first iterations of each run count in no figure.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.job_run import JobRun
from benchmarks.record import record
from benchmarks.startup import HEADER, make_inputs

ITERATIONS, WARM_UP = 24, 4
PHASES = {"iteration": "phase/total", "rollout": "phase/generate"}
"""figure -> metric"""
PPO = f"""\
  ppo: {{{{kind: train, algorithm: {{{{name: ppo, epochs: 1}}}}, model: {{model}}, reward: {{reward}},
        data: {{{{split: train}}}}, candidates: [{{{{source: live, count: 4}}}}], prompts: 32,
        iterations: {ITERATIONS}, checkpoint_every: 100000, learner: {{{{minibatch: 64, micro_tokens: 1024}}}}}}}}
"""


def measure(tree: Path, inputs: dict[str, str], folder: Path) -> dict[str, float]:
    """Median seconds of a run's iterations and rollouts."""
    folder.mkdir()
    text = (HEADER + PPO).format(name="ppo", output=folder / "runs", **inputs)
    run = JobRun(tree, "ppo", text, folder)
    run.ends()
    rows = run.metrics("ppo")[WARM_UP:]
    return {name: statistics.median(row["metrics"][metric] for row in rows) for name, metric in PHASES.items()}


def main() -> None:
    """Measure both checkouts by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("older", type=Path, help="a checkout of an older state")
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    trees = {"now": Path(__file__).parents[1], "before": options.older.resolve()}
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    with tempfile.TemporaryDirectory() as scratch:
        inputs = make_inputs(Path(scratch))
        for turn in range(options.turns):
            for name, tree in trees.items():
                turns[name].append(measure(tree, inputs, Path(scratch) / f"{name}-{turn}"))
    medians: dict[str, dict[str, float]] = {}
    for name, figures in turns.items():
        medians[name] = {phase: round(statistics.median(turn[phase] for turn in figures), 4) for phase in PHASES}
    ratios = {phase: round(medians["now"][phase] / medians["before"][phase], 3) for phase in PHASES}
    record("iteration_before", {"medians": medians, "now_to_before": ratios, "turns": turns})


if __name__ == "__main__":
    main()
