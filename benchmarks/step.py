"""Where an iteration's time goes: in turns, overlapped, and on shared devices; and its share of the ideal.

python -m benchmarks.step RUN [--quick]

RUN is a finished run of jobs/quickstart.yaml, whose fine-tuned model and reward model are used. GRPO without a
reference trains with a learning rate of almost nothing, so that all placements write answers of the same lengths.

The ideal is what the work costs without anything around it (`step_bare`): core-seconds of one-thread loops of the
engine, the scorer and the learner over the same groups, divided by the cores. The same loops are also timed on every
core at once, since cores that share memory, or are two threads of one core, then take longer for the same work.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.job_run import JobRun
from benchmarks.record import record
from benchmarks.step_bare import Work, measure

ITERATIONS, WARM_UP = 24, 6
ROUNDS = 3
"""of iterations in turns; the one whose share of the ideal is the middle one counts"""
DEADLINE = 600.0
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


def job_text(run: Path, name: str, output: Path, iterations: int) -> str:
    """The job of one placement."""
    placement, settings = PLACEMENTS[name]
    stage = {
        "kind": "train",
        "algorithm": {"name": "grpo", "kl_coefficient": 0.0},
        "model": str(run / "stages" / "sft" / "model"),
        "reward": str(run / "stages" / "rm" / "model"),
        "data": {"split": "train"},
        "candidates": [{"source": "live", "count": 4}],
        "learner": {"learning_rate": 1e-9, "minibatch": 64, "micro_tokens": 1024},
        "prompts": 64,
        "iterations": iterations,
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


def measured(run: Path, name: str, folder: Path, iterations: int) -> dict[str, float]:
    """Medians of an iteration's phases and of its figures."""
    job = JobRun(TREE, name, job_text(run, name, folder / "runs", iterations), folder)
    job.ends()
    rows = [row["metrics"] for row in job.metrics(STAGE)][WARM_UP:]
    kept = ("phase/", "publish/seconds", "rollout/tokens", "rollout/staleness", "rollout/mixed")
    return {key: statistics.median(row[key] for row in rows) for key in rows[0] if key.startswith(kept)}


def bare(run: Path, journal: Path, at_once: int) -> Work:
    """Core-seconds of each kind of work, in so many processes with one thread at the same time; the mean of them."""
    os.environ.update(OMP_NUM_THREADS="1")
    models = [str(run / "stages" / stage / "model") for stage in ("sft", "rm")]
    with ProcessPoolExecutor(at_once, get_context("spawn")) as pool:
        copies = [pool.submit(measure, *models, str(journal)) for _ in range(at_once)]
        works = [copy.result(timeout=DEADLINE) for copy in copies]
    seconds = {name: statistics.mean(getattr(work, name) for work in works) for name in ("generate", "score", "update")}
    return Work(**seconds, tokens=works[0].tokens)


class Round(NamedTuple):
    """Iterations in turns, and the loops right after them: how fast a machine is may change within a minute."""

    row: Mapping[str, float]
    alone: Work
    at_once: Work


def in_turns(run: Path, folder: Path, iterations: int, cores: int) -> Round:
    """One round."""
    folder.mkdir()
    row = measured(run, "sync", folder, iterations)
    journal = folder / "runs" / "sync" / "journal" / f"{STAGE}.jsonl"
    alone, at_once = bare(run, journal, 1), bare(run, journal, cores)
    return Round({**row, **shares(alone, at_once, row, cores)}, alone, at_once)


def seconds_of(work: Work) -> float:
    """Core-seconds of all kinds together."""
    return work.generate + work.score + work.update


def shares(alone: Work, at_once: Work, row: Mapping[str, float], cores: int) -> dict[str, float]:
    """One placement against the loops for as many tokens as it wrote."""
    iterations = row["rollout/tokens"] / alone.tokens
    ideal, reachable = (iterations * seconds_of(work) / cores for work in (alone, at_once))
    total = row["phase/total"]
    return {"ideal_seconds": ideal, "share_of_ideal": ideal / total, "share_at_once": reachable / total}


def main() -> None:
    """Measure every placement, and the bare loops over the groups of the first one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--quick", action="store_true", help="few iterations, and nothing is recorded")
    arguments = parser.parse_args()
    run, cores = arguments.run.resolve(), os.cpu_count() or 1
    iterations = WARM_UP + 4 if arguments.quick else ITERATIONS
    with tempfile.TemporaryDirectory() as scratch:
        rounds = [in_turns(run, Path(scratch) / str(number), iterations, cores) for number in range(ROUNDS)]
        rounds.sort(key=lambda each: each.row["share_of_ideal"])
        typical = rounds[ROUNDS // 2]
        rows = {"sync": typical.row}
        for name in PLACEMENTS:
            if name not in rows:
                row = measured(run, name, Path(scratch), iterations)
                rows[name] = {**row, **shares(typical.alone, typical.at_once, row, cores)}
    figures = {
        "limits": {"sync_share_of_ideal": 0.75, "overlap_speed": 1.3, "generation_share": [0.4, 0.6]},
        "bare_core_seconds": typical.alone._asdict(),
        "bare_core_seconds_at_once": typical.at_once._asdict(),
        "generation_share": (typical.alone.generate + typical.alone.score) / seconds_of(typical.alone),
        "sync_shares": [each.row["share_of_ideal"] for each in rounds],
        "sync_shares_at_once": [each.row["share_at_once"] for each in rounds],
        "placements": rows,
        "overlap_speed": rows["apart_sync"]["phase/total"] / rows["apart_overlapped"]["phase/total"],
    }
    if arguments.quick:
        print(yaml.safe_dump(figures, sort_keys=False))
    else:
        record("step", figures)


if __name__ == "__main__":
    main()
