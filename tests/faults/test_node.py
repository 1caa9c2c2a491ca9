"""A machine of a simulated cluster is gone in the middle of a run, and another one comes."""

from __future__ import annotations

import re
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from rayalign.storage.journal import Accounting, Journal
from rayalign.storage.records import read_jsonl
from tests.heads import ray_head, ray_node, rayalign

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(1800)]
ITERATIONS, PROMPTS = 8, 4
JOB = """\
name: struck
cluster: {scale_timeout: 0, environment: {NCCL_SOCKET_IFNAME: lo, GLOO_SOCKET_IFNAME: lo}}
rollout: {engine: local, engines: 1, context: 64, cpus: 0.5}
stages:
  rl:
    kind: train
    algorithm: {name: rrhf}
    model: MODEL
    reward: {rules: {kind: length, high: 6, margin: 20}}
    candidates: [{source: live, count: 2}]
    sampling: {max_tokens: 8}
    learner: {minibatch: 8}
    prompts: PROMPTS
    iterations: ITERATIONS
    checkpoint_every: 1
    data: {limit: 32}
    roles: {policy: {cpus: POLICY}, reward: {cpus: REWARD}}
"""


@pytest.mark.parametrize("role", ["reward", "policy"])
def test_the_run_goes_on_when_a_machine_is_gone_and_another_comes(role: str, model: str, tmp_path: Path) -> None:
    cpus = {"policy": 0.25, "reward": 0.25} | {role: 2}
    text = JOB.replace("MODEL", model).replace("ITERATIONS", str(ITERATIONS)).replace("PROMPTS", str(PROMPTS))
    (tmp_path / "job.yaml").write_text(
        text.replace("POLICY", str(cpus["policy"])).replace("REWARD", str(cpus["reward"]))
    )
    run = tmp_path / "runs" / "struck"
    with ExitStack() as nodes, ray_head(tmp_path / "head.log", "--num-cpus=1") as head, ExitStack() as first:
        first.enter_context(ray_node(head, tmp_path / "first.log", "--num-cpus=2", ip="127.0.0.2"))

        def strike() -> None:
            while not [row for row in events(run, "published") if row["version"] == 2]:
                time.sleep(0.1)
            first.close()
            nodes.enter_context(ray_node(head, tmp_path / "second.log", "--num-cpus=2", ip="127.0.0.3"))

        striker = threading.Thread(target=strike, daemon=True)
        striker.start()
        done = rayalign(head, tmp_path, "submit", "job.yaml", f"output={tmp_path / 'runs'}")
        striker.join(timeout=60.0)
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert re.search(rf"{role} \(pid \d+\) died: its machine on 127.0.0.2 \(node \w+\) is gone", done.stdout)
    places = [row["address"] for row in events(run, "actor_started") if row["role"] == role]
    assert places == ["127.0.0.2", "127.0.0.3"]
    with closing(Journal(run / "journal" / "rl.jsonl")) as journal:
        account = Accounting.of(journal.replay(effective=True))
    account.check(ended=True)
    assert len(account.consumed) == ITERATIONS * PROMPTS


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    path = run / "events.jsonl"
    return [row for row in read_jsonl(path, growing=True) if row["event"] == kind] if path.exists() else []
