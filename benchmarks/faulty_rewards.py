"""PPO whose reward comes over HTTP from a service that fails: do absent scores bias what is learned?

A stand-in for the service scores by the real pool's noiseless judge and fails a share of the calls (half of them answer
500, half give no score for any row) or a share of the single scores. Every run has the same model, prompts and seed;
the trained policies answer the same test prompts.

python -m benchmarks.faulty_rewards [FOLDER]: models that the folder already has (base, sft) are kept.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import uvicorn
import yaml
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from benchmarks.record import record
from rayalign.annotator.asking.api import ScoreReply, ScoreRequest
from rayalign.annotator.pool.build import build_pool
from rayalign.annotator.pool.ranking import score
from rayalign.annotator.service_file import load_service
from rayalign.statistics.intervals import mean_interval, paired_difference
from rayalign.storage.journal import Accounting, Journal
from rayalign.storage.metrics import read_metrics
from rayalign.storage.records import read_jsonl

JOB = Path("jobs/small/overoptimisation.yaml").resolve()
"""its first two stages are taken"""
SEEDS = (0, 1)
RUNS = ("none", *(f"{kind}-{share:02d}" for kind in ("calls", "scores") for share in (5, 15, 30)))
ITERATIONS, PROMPTS, TESTS = 12, 32, 300
Counts = dict[str, Counter[str]]


class Failing:
    """POST /v1/scores of annotators called `none`, `calls-15`, `scores-30` ...: what fails, and how often."""

    def __init__(self, folder: Path) -> None:
        settings = load_service(None).model_copy(update={"cache": f"sqlite:///{folder / 'verdicts.db'}"})
        self._pool = build_pool(settings)
        self._draw = random.Random(0)
        self.counts: Counts = {}
        self.app = FastAPI()
        self.app.post("/v1/scores")(self.scores)

    async def scores(self, body: ScoreRequest) -> Response:
        """The real scores, but for what fails."""
        kind, _, share = body.annotator.partition("-")
        chance = int(share or 0) / 100
        counts = self.counts.setdefault(body.annotator, Counter())
        counts["calls"] += 1
        replies = await score(self._pool, body.model_copy(update={"annotator": "gold"}))
        if kind == "calls" and self._draw.random() < chance:
            counts["failed_calls"] += 1
            if self._draw.random() < 0.5:
                return Response("broken", status_code=500)
            replies = [_absent(reply) for reply in replies]
        elif kind == "scores":
            replies = [_absent(reply) if self._draw.random() < chance else reply for reply in replies]
        counts["rows"] += len(replies)
        counts["absent_rows"] += sum(reply.score is None for reply in replies)
        return JSONResponse({"scores": [reply.model_dump() for reply in replies]})


def _absent(reply: ScoreReply) -> ScoreReply:
    return reply.model_copy(update={"score": None, "reason": "the judge gave no verdict"})


@contextmanager
def served(failing: Failing) -> Iterator[str]:
    """The stand-in on a free port, while this is entered."""
    server = uvicorn.Server(uvicorn.Config(failing.app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the stand-in did not start"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=30)


def train(output: Path, seed: int, url: str) -> Path:
    """All runs of one seed and their evaluation; the folder."""
    dropped = ("answers", "labels_pool", "labels_gold", "rm_pool", "rm_gold", "ppo_pool", "ppo_gold")
    stages: dict[str, Any] = dict.fromkeys(dropped)
    for name in RUNS:
        stages[name] = {
            "kind": "train",
            "algorithm": {"name": "ppo", "epochs": 1, "kl_coefficient": 0.1},
            "model": "stage:sft",
            "reward": f"annotator:{name}",
            "candidates": [{"source": "live", "count": 4}],
            "learner": {"learning_rate": 5e-4, "minibatch": 64, "micro_tokens": 1024},
            "prompts": PROMPTS,
            "iterations": ITERATIONS,
            "redo": 3,
        }
    models = {"sft": "stage:sft", **{name: f"stage:{name}" for name in RUNS}}
    stages["final"] = {"kind": "evaluate", "models": models, "against": ["none"], "data": {"limit": TESTS}}
    job = {"extends": str(JOB), "annotator": {"url": url}, "stages": stages}
    file = output / "faulty_rewards.yaml"
    file.write_text(yaml.safe_dump(job, sort_keys=False), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("rayalign")), "run", str(file), f"output={output}"]
    subprocess.run([*command, f"name=faults{seed}", f"seed={seed}"], check=True, timeout=7200)
    return output / f"faults{seed}"


def accounts(folder: Path, name: str) -> dict[str, Any]:
    """What became of the groups of one run, and how often a score was asked for again."""
    with closing(Journal(folder / "journal" / f"{name}.jsonl")) as journal:
        account = Accounting.of(journal.replay(effective=True))
    account.check(ended=True)
    stage, asked = "", Counter[str]()
    for event in read_jsonl(folder / "events.jsonl"):
        stage = event["stage"] if event["event"] == "stage_started" else stage
        if event["event"] == "score_started" and stage == name:
            asked.update(event["groups"])
    rewards = [row["metrics"]["reward/mean"] for row in read_metrics(folder / "stages" / name / "metrics.jsonl")]
    return {
        "groups_consumed": len(account.consumed),
        "groups_dropped": len(account.dropped),
        "groups_redone": sum(times - 1 for times in asked.values()),
        "reward_of_last_iterations": sum(rewards[-3:]) / 3,
    }


def gold(folder: Path) -> dict[str, dict[str, float]]:
    """model -> test prompt -> gold utility."""
    found: dict[str, dict[str, float]] = {}
    for row in read_jsonl(folder / "stages" / "final" / "records.jsonl"):
        found.setdefault(row["model"], {})[row["prompt_id"]] = row["value"]
    return found


def row(name: str, folders: dict[int, Path], counts: Counts) -> dict[str, Any]:
    """One line of the table: all seeds together, each prompt of a seed a cluster."""
    tables = {seed: gold(folder) for seed, folder in folders.items()}
    places = [(seed, prompt) for seed, table in tables.items() for prompt in table["none"] if prompt in table[name]]
    ours, base = ([tables[seed][which][p] for seed, p in places] for which in (name, "none"))
    gap = paired_difference(ours, base)
    seeds = {
        seed: sum(table[name].values()) / len(table[name]) - sum(table["none"].values()) / len(table["none"])
        for seed, table in tables.items()
    }
    return {
        "faults": name,
        "gold": mean_interval(ours)._asdict(),
        "gold_less_that_without_faults": gap._asdict(),
        "by_seed": seeds,
        "runs": {seed: accounts(folder, name) for seed, folder in folders.items()} if name != "sft" else {},
        "service": dict(counts.get(name, {})),
    }


def main() -> None:
    """Train every run under every seed and keep the table."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(sys.argv[1] if len(sys.argv) > 1 else scratch).resolve()
        failing = Failing(output)
        with served(failing) as url:
            folders = {seed: train(output, seed, url) for seed in SEEDS}
        rows = [row(name, folders, failing.counts) for name in ("sft", *RUNS)]
        record("faulty_rewards", {"iterations": ITERATIONS, "groups": ITERATIONS * PROMPTS, "redo": 3, "rows": rows})


if __name__ == "__main__":
    main()
