"""An online stage whose engines become three as machines come, and one as these machines are gone, while they write."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from rayalign.storage.journal import Accounting, Journal
from rayalign.storage.records import read_jsonl
from tests.heads import ray_head, ray_node, rayalign

pytestmark = [pytest.mark.autoscaling, pytest.mark.ray, pytest.mark.timeout(1800)]
ITERATIONS, PROMPTS = 60, 8
ADDED = ("127.0.0.2", "127.0.0.3")
"""the machines that come and go"""
JOB = """\
name: changing
cluster: {scale_timeout: 0}
rollout: {engine: local, engines: 1, max_engines: 3, context: 96, max_sequences: 8, cpus: 2}
stages:
  rl:
    kind: train
    algorithm: {name: rrhf}
    model: MODEL
    reward: paced:score
    candidates: [{source: live, count: 2}]
    sampling: {max_tokens: 48}
    learner: {minibatch: 16}
    prompts: PROMPTS
    iterations: ITERATIONS
    data: {limit: 32}
    roles: {policy: {cpus: 0.25}, reward: {cpus: 0.25}}
"""
"""the head's machine has room for one engine"""
REWARD = """\
import time
from pathlib import Path

def score(prompt, answer):
    if not Path("GO").exists():
        time.sleep(0.2)  # so that the stage does not end before the machines have come
    return float(len(answer))
"""


def test_no_group_is_lost_or_doubled_from_one_engine_to_three_to_one(model: str, tmp_path: Path) -> None:
    text = JOB.replace("MODEL", model).replace("ITERATIONS", str(ITERATIONS)).replace("PROMPTS", str(PROMPTS))
    (tmp_path / "job.yaml").write_text(text)
    (tmp_path / "paced.py").write_text(REWARD.replace("GO", str(tmp_path / "go")))
    run = tmp_path / "runs" / "changing"
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    with (
        ray_head(tmp_path / "head.log", "--num-cpus=3", PYTHONPATH=path) as head,
        ExitStack() as machines,
        ThreadPoolExecutor(1) as threads,
    ):
        submitted = threads.submit(rayalign, head, tmp_path, "submit", "job.yaml", f"output={tmp_path / 'runs'}")
        wait_until(lambda: published_since(run, engines=1), submitted)
        for address in ADDED:
            machines.enter_context(ray_node(head, tmp_path / f"{address}.log", "--num-cpus=2", ip=address))
        wait_until(lambda: published_since(run, engines=3), submitted)
        # Six of eight groups: each of three engines has two or three, so that it writes at least one of these.
        wait_until(lambda: len(being_written(run)) >= 6, submitted)
        in_flight = being_written(run)
        machines.close()
        (tmp_path / "go").touch()
        done = submitted.result()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    engines = [row["address"] for row in events(run) if row["event"] == "actor_started" and row["role"] == "generator"]
    assert len(engines) == 3 and set(engines[1:]) == set(ADDED)
    losses = re.findall(r"generator.* on (127\S+) .* room for another one is requested", done.stdout)
    assert sorted(losses) == [*ADDED]
    with closing(Journal(run / "journal" / "rl.jsonl")) as journal:
        account = Accounting.of(journal.replay(effective=True))
    account.check(ended=True)
    assert in_flight <= account.consumed.keys(), "what was being written is written by the engine that is left"
    assert len(account.consumed) == ITERATIONS * PROMPTS and not account.dropped


def growing(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that another process may write to."""
    return list(read_jsonl(path, growing=True)) if path.exists() else []


def events(run: Path) -> list[dict[str, Any]]:
    return growing(run / "events.jsonl")


def published_since(run: Path, engines: int) -> bool:
    """Whether the present engines, so many, have had proven weights since the last of them started."""
    kinds = [row["event"] for row in events(run) if row.get("role", "generator") == "generator"]
    starts = [place for place, kind in enumerate(kinds) if kind == "actor_started"]
    return len(starts) == engines and "published" in kinds[starts[-1] :]


def being_written(run: Path) -> set[str]:
    """The groups that engines have now."""
    account = Accounting.of(growing(run / "journal" / "rl.jsonl"))
    return account.open - account.finished


def wait_until(condition: Callable[[], bool], submitted: Future[Any]) -> None:
    while not condition():
        assert not submitted.done(), submitted.result()
        time.sleep(0.02)
