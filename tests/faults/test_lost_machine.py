"""An offline stage under Ray Train that loses its second machine, and goes on with the rank that is left."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.heads import ray_head, ray_node, rayalign

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(1800)]
JOB = """\
name: lost
cluster: {scale_timeout: 300, heartbeat_timeout: 20, restarts: 2}
stages:
  base:
    kind: pretrain
    data: {limit: 100}
    epochs: 40
    learner: {minibatch: 50}
    roles: {policy: {actors: 2, min_actors: 1, cpus: 1}}
"""


def test_a_stage_over_two_machines_goes_on_without_the_one_that_is_lost(tmp_path: Path) -> None:
    """Each machine has room for one of two ranks, so that Ray Train launches them."""
    (tmp_path / "job.yaml").write_text(JOB)
    run = tmp_path / "runs" / "lost"
    overrides = (f"output={tmp_path / 'runs'}", "cluster.environment={NCCL_SOCKET_IFNAME: lo}")
    with ExitStack() as running, ThreadPoolExecutor(1) as driver:
        head = running.enter_context(ray_head(tmp_path / "head.log", "--num-cpus=1"))
        second = running.enter_context(ExitStack())
        second.enter_context(ray_node(head, tmp_path / "node.log", "--num-cpus=1", ip="127.0.0.2"))
        command = driver.submit(rayalign, head, tmp_path, "submit", "job.yaml", *overrides)
        while not (run / "stages" / "base" / "checkpoints" / "last").exists():
            assert not command.done(), f"{command.result().stdout}\n{command.result().stderr}"
            time.sleep(0.2)
        second.close()
        done = command.result()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    ranks = [event["rank"] for event in events if event["event"] == "actor_started"]
    assert sorted(ranks[:2]) == [0, 1] and ranks[2:] == [0]
    (restart,) = [event for event in events if event["event"] == "stage_restarted"]
    lost = r"train:policy rank \d \(pid \d+ on .*\) died: its machine on 127.0.0.2 \(node [0-9a-f]{8}\) is gone"
    assert re.match(lost, restart["reason"]), restart["reason"]
    assert (run / "stages" / "base" / "model" / "model.safetensors").is_file()
