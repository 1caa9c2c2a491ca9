"""A cluster of two machines that share no folder but the one that they should: the second has a mount of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from rayalign.storage.records import read_jsonl
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
HELD = 256 << 20
"""bytes that an actor of the second machine holds"""
WATCHING = """
import sys
from pathlib import Path
import ray
from rayalign.cluster.machine_watch import Watches
from rayalign.cluster.session import Session
from rayalign.config import ClusterConfig

class Holder:
    def hold(self, size):
        self.held = b"x" * size

with Session(ClusterConfig(address=sys.argv[1])):
    watches = Watches(Path(sys.argv[2]))
    watches.extend()
    holder = ray.remote(Holder).options(num_cpus=2).remote()  # the head's machine has one
    ray.get(holder.hold.remote(int(sys.argv[3])))
    watches.collect()
    print(watches.peak)
"""


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
    run = two.shared / "spread"
    settings: dict[str, set[str | None]] = {}
    with ThreadPoolExecutor(1) as threads:
        submitted = threads.submit(rayalign, two.head, tmp_path, "submit", "job.yaml", *overrides)
        while not submitted.done():
            note_settings(run, settings)
            time.sleep(0.05)
        done = submitted.result()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert settings.keys() >= {"train:policy", "policy", "generator", "reward"}
    assert [role for role, values in settings.items() if values != {"lo"}] == []
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    reward = [event for event in events if event["event"] == "actor_started" and event["role"] == "reward"]
    assert [event["address"] for event in reward] == [SECOND], "from there it asks the annotator on the head"
    logs = list((run / "logs").glob(f"{SECOND}-*.log"))
    assert logs and os.path.getsize(logs[0]) > 0
    summary = json.loads((run / "summary.json").read_text())
    assert [stage["status"] for stage in summary["stages"]] == ["finished"] * 2


def note_settings(run: Path, settings: dict[str, set[str | None]]) -> None:
    """What NCCL's variable is in the process of each role that has started and has not ended."""
    path = run / "events.jsonl"
    rows = read_jsonl(path, growing=True) if path.exists() else ()
    for row in rows:
        if row["event"] == "actor_started":
            with suppress(psutil.NoSuchProcess):
                variables = psutil.Process(row["actor_pid"]).environ()
                settings.setdefault(row["role"], set()).add(variables.get("NCCL_SOCKET_IFNAME"))


def test_the_peak_of_the_other_machine_is_measured_there(two: Two, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WATCHING, two.head.address, str(tmp_path), str(HELD)]
    done = subprocess.run(command, env=dict(two.head.environment), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > HELD, "the driver's own memory does not count here"


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
