"""Where an iteration's time goes: in turns, overlapped, and on shared devices; and its share of the ideal.

python -m benchmarks.step RUN [--larger RUN] [--quick]

RUN is a finished run of jobs/quickstart.yaml, whose fine-tuned model and reward model are used, of 1M parameters each.
With --larger, one of benchmarks/step_larger.yaml, with models of 27M parameters, iterations in turns are measured with
that one too. GRPO without a reference trains with a learning rate of almost nothing, so that all placements write
answers of the same lengths.

The ideal is what the work costs without anything around it (`step_bare`): core-seconds of one-thread loops of the
engine, the scorer and the learner over the same groups, divided by the cores. They have an actor's environment, and run
right after the iterations that they are compared with. The same loops are also timed on every core at once, since cores
that share memory, or are two threads of one core, then take longer for the same work.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.job_run import JobRun
from benchmarks.record import record
from benchmarks.step_bare import Work, measure
from rayalign.cluster.placement import Claim, process_environment

ROUNDS = 3
"""of iterations in turns; the one whose share of the ideal is the middle one counts"""
DEADLINE = 900.0
"""seconds of the loops by themselves"""
TREE = Path(__file__).resolve().parents[1]
STAGE = "rl"
APART = {"rollout": {"engines": 1}, "roles": {"policy": {"threads": 1}, "reward": {"threads": 1}}}
"""one engine on one core, one learner on the other"""
SPREAD = {"rollout": {"engines": 2}, "roles": {"policy": {"actors": 2}, "reward": {"actors": 2}}}
"""every phase on both cores"""
SHARED = {
    "cluster": {"share_devices": True, "logical_devices": {"count": 1, "bytes": 8 << 30}},
    "rollout": {"engines": 1, "gpus": 1, "threads": 2},
    "roles": {"policy": {"gpus": 1, "threads": 2}, "reward": {"gpus": 0, "threads": 2}},
}
"""engine and learner take turns on one logical device, with both cores each"""
STALE = {"max_staleness": 1, "overlap": {"old_policy": "behaviour"}}
"""no forward pass but those of the update, in both"""
PLACEMENTS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "sync": (SPREAD, {}),
    "overlapped": (SPREAD, STALE),
    "colocated": (SHARED, {}),
    "apart_sync": (APART, {}),
    "apart_overlapped": (APART, STALE),
}
"""name -> placement, and settings of the stage"""


class Workload(NamedTuple):
    """Which models learn, how, and how often an iteration is measured."""

    run: Path
    learner: Mapping[str, Any]
    iterations: int
    warm_up: int
    repeats: int
    """of the bare loops"""

    def model(self, stage: str) -> str:
        """The folder of a model of the run."""
        return str(self.run / "stages" / stage / "model")


def job_text(workload: Workload, name: str, output: Path) -> str:
    """The job of one placement."""
    placement, settings = PLACEMENTS[name]
    stage = {
        "kind": "train",
        "algorithm": {"name": "grpo", "kl_coefficient": 0.0},
        "model": workload.model("sft"),
        "reward": workload.model("rm"),
        "data": {"split": "train"},
        "candidates": [{"source": "live", "count": 4}],
        "learner": dict(workload.learner),
        "prompts": 64,
        "iterations": workload.iterations,
        "checkpoint_every": 1000,
        "roles": placement["roles"],
        **settings,
    }
    job = {
        "name": name,
        "seed": 0,
        "output": str(output),
        "cluster": placement.get("cluster", {}),
        "rollout": {"engine": "local", "context": 96, **placement["rollout"]},
        "stages": {STAGE: stage},
    }
    return yaml.safe_dump(job, sort_keys=False)


def medians(workload: Workload, name: str, folder: Path) -> dict[str, float]:
    """Medians of an iteration's phases and of its figures."""
    job = JobRun(TREE, name, job_text(workload, name, folder / "runs"), folder)
    job.ends()
    rows = [row["metrics"] for row in job.metrics(STAGE)][workload.warm_up :]
    kept = ("phase/", "publish/seconds", "rollout/tokens", "rollout/staleness", "rollout/mixed")
    return {key: statistics.median(row[key] for row in rows) for key in rows[0] if key.startswith(kept)}


@contextmanager
def as_an_actor() -> Iterator[None]:
    """Within it, new processes have the environment of an actor with one thread, so that memory costs as much there."""
    before = dict(os.environ)
    os.environ.update(process_environment(Claim(cpus=1.0, gpus=0.0, threads=1)))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def bare(workload: Workload, journal: Path, at_once: int) -> Work:
    """Core-seconds of each kind of work, in so many processes with one thread at the same time; the mean of them."""
    given = (workload.model("sft"), workload.model("rm"), str(journal), dict(workload.learner), workload.repeats)
    with as_an_actor(), ProcessPoolExecutor(at_once, get_context("spawn")) as pool:
        copies = [pool.submit(measure, *given) for _ in range(at_once)]
        works = [copy.result(timeout=DEADLINE) for copy in copies]
    seconds = {name: statistics.mean(getattr(work, name) for work in works) for name in ("generate", "score", "update")}
    return Work(**seconds, tokens=works[0].tokens)


class Round(NamedTuple):
    """Iterations in one placement, and the loops right after them: how fast a machine is may change within a minute."""

    row: Mapping[str, float]
    alone: Work
    at_once: Work


def one_round(workload: Workload, name: str, cores: int) -> Round:
    """Iterations in one placement, against the loops for as many tokens as they wrote."""
    with tempfile.TemporaryDirectory() as scratch:
        row = medians(workload, name, Path(scratch))
        journal = Path(scratch) / "runs" / name / "journal" / f"{STAGE}.jsonl"
        alone, at_once = bare(workload, journal, 1), bare(workload, journal, cores)
    iterations = row["rollout/tokens"] / alone.tokens
    ideal, reachable = (iterations * seconds_of(work) / cores for work in (alone, at_once))
    total = row["phase/total"]
    shares = {"ideal_seconds": ideal, "share_of_ideal": ideal / total, "share_at_once": reachable / total}
    return Round({**row, **shares}, alone, at_once)


def seconds_of(work: Work) -> float:
    """Core-seconds of all kinds together."""
    return work.generate + work.score + work.update


def in_turns(workload: Workload, rounds: int, cores: int) -> tuple[Round, dict[str, Any]]:
    """Rounds of iterations in turns: the one with the middle share, and the shares of all."""
    each = sorted((one_round(workload, "sync", cores) for _ in range(rounds)), key=lambda r: r.row["share_of_ideal"])
    typical = each[rounds // 2]
    return typical, {
        "bare_core_seconds": typical.alone._asdict(),
        "bare_core_seconds_at_once": typical.at_once._asdict(),
        "sync_shares": [one.row["share_of_ideal"] for one in each],
        "sync_shares_at_once": [one.row["share_at_once"] for one in each],
    }


def larger_figures(run: Path, quick: bool, cores: int) -> dict[str, Any]:
    """Iterations in turns of the larger models: one optimizer step for all answers of an iteration, and four."""
    one_step = Workload(run, {"learning_rate": 1e-9, "minibatch": 256}, 4 if quick else 8, 2, 1 if quick else 2)
    four_steps = one_step._replace(learner={**one_step.learner, "minibatch": 64})
    typical, figures = in_turns(one_step, 1 if quick else ROUNDS, cores)
    return {**figures, "placements": {"sync": typical.row, "four_steps": one_round(four_steps, "sync", cores).row}}


def main() -> None:
    """Measure every placement, each against the bare loops over its own groups."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--larger", type=Path, metavar="RUN", help="a finished run of benchmarks/step_larger.yaml")
    parser.add_argument("--quick", action="store_true", help="few iterations, and nothing is recorded")
    arguments = parser.parse_args()
    cores = os.cpu_count() or 1
    learner = {"learning_rate": 1e-9, "minibatch": 64, "micro_tokens": 1024}
    workload = Workload(arguments.run.resolve(), learner, 10 if arguments.quick else 24, 6, 9)
    typical, figures = in_turns(workload, 1 if arguments.quick else ROUNDS, cores)
    rows = {"sync": typical.row}
    rows |= {name: one_round(workload, name, cores).row for name in PLACEMENTS if name != "sync"}
    figures |= {
        "limits": {"sync_share_of_ideal": 0.75, "overlap_speed": 1.3, "generation_share": [0.4, 0.6]},
        "generation_share": (typical.alone.generate + typical.alone.score) / seconds_of(typical.alone),
        "placements": rows,
        "overlap_speed": rows["apart_sync"]["phase/total"] / rows["apart_overlapped"]["phase/total"],
    }
    if arguments.larger:
        figures["larger"] = larger_figures(arguments.larger.resolve(), arguments.quick, cores)
    if arguments.quick:
        print(yaml.safe_dump(figures, sort_keys=False))
    else:
        record("step", figures)


if __name__ == "__main__":
    main()
