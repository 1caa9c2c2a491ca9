"""A cluster of two machines that share no folder but the one that they should: the second has a mount of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.heads import Head, ray_head, ray_node, rayalign

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
JOB = """\
name: spread
cluster: {scale_timeout: 0}
rollout: {engine: local, engines: 1, context: 64, cpus: 0.25}
stages:
  base: {kind: pretrain, data: {limit: 100}, learner: {minibatch: 50}, roles: {policy: {cpus: 0.5}}}
  rl:
    kind: train
    algorithm: {name: rrhf}
    model: stage:base
    reward: annotator:careful
    candidates: [{source: live, count: 2}]
    sampling: {max_tokens: 8}
    learner: {minibatch: 8}
    prompts: 4
    iterations: 1
    roles: {policy: {cpus: 0.5}, reward: {cpus: 2}}
"""
READING = """\
name: reading
rollout: {engine: local, engines: 1, context: 64, cpus: 2}
stages:
  answers:
    {kind: generate, model: MODEL, data: {split: preference, limit: 8}, sampling: {max_tokens: 8}}
"""
"""its engine has room on the second machine alone"""
SECOND = "127.0.0.2"


@dataclass(frozen=True, slots=True)
class Two:
    """Both machines."""

    head: Head
    shared: Path
    private: Path
    """a folder of the head's machine; on the other one it is empty"""


def _own_mount(folder: Path) -> list[str]:
    """A command that runs another one where this folder is empty; skips where the system allows none."""
    script = f'mount -t tmpfs none "{folder}" && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("the system allows no mounts of one's own (unshare)")
    return command


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """A head of one CPU and another machine of three."""
    folder = tmp_path_factory.mktemp("two")
    shared, private = folder / "shared", folder / "private"
    shared.mkdir()
    private.mkdir()
    within = _own_mount(private)
    with (
        ray_head(folder / "head.log", "--num-cpus=1") as head,
        ray_node(head, folder / "node.log", "--num-cpus=3", within=within, ip=SECOND),
    ):
        yield Two(head, shared, private)


def test_a_folder_that_only_the_driver_sees_is_refused_before_anything_starts(two: Two, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    done = rayalign(two.head, tmp_path, "submit", "job.yaml", f"output={two.private / 'runs'}")
    assert done.returncode == 2, f"{done.stdout}\n{done.stderr}"
    assert re.search(rf"output: the machine {SECOND} does not see {two.private}/runs/spread as the driver", done.stdout)
    assert not list((two.private / "runs" / "spread").glob("stages/*/checkpoints"))


def test_a_job_over_two_machines_brings_the_logs_of_both_home(two: Two, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    overrides = (f"output={two.shared}", "cluster.environment={NCCL_SOCKET_IFNAME: lo}")
    done = rayalign(two.head, tmp_path, "submit", "job.yaml", *overrides)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    run = two.shared / "spread"
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    reward = [event for event in events if event["event"] == "actor_started" and event["role"] == "reward"]
    assert [event["address"] for event in reward] == [SECOND], "from there it asks the annotator on the head"
    logs = list((run / "logs").glob(f"{SECOND}-*.log"))
    assert logs and os.path.getsize(logs[0]) > 0
    summary = json.loads((run / "summary.json").read_text())
    assert [stage["status"] for stage in summary["stages"]] == ["finished"] * 2


def test_a_model_that_only_the_driver_has_reaches_the_engine_on_the_other_machine(
    two: Two, model: str, tmp_path: Path
) -> None:
    folder = two.private / "model"
    shutil.copytree(model, folder)
    (tmp_path / "job.yaml").write_text(READING.replace("MODEL", str(folder)))
    done = rayalign(two.head, tmp_path, "submit", "job.yaml", f"output={two.shared}")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    events = [json.loads(line) for line in (two.shared / "reading" / "events.jsonl").read_text().splitlines()]
    places = [event["address"] for event in events if event["event"] == "actor_started"]
    assert places == [SECOND]
