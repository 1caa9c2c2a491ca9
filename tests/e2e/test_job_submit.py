"""The same command, handed to a Ray cluster instead of being run here."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
JOB = """\
name: submitted
rollout: {engine: local, engines: 1, context: 64}
stages:
  base: {kind: pretrain, data: {limit: 100}, learner: {minibatch: 50}}
  answers:
    {kind: generate, model: stage:base, data: {split: preference, limit: 8}, count: 2, sampling: {max_tokens: 8}}
  labels: {kind: annotate, examples: stage:answers, annotator: careful}
  rm: {kind: train, algorithm: {name: reward}, model: stage:base, examples: stage:labels, learner: {minibatch: 8}}
  rrhf:
    kind: train
    algorithm: {name: rrhf}
    model: stage:base
    reward: stage:rm
    candidates: [{source: live, count: 2}]
    sampling: {max_tokens: 8}
    learner: {minibatch: 8}
    prompts: 4
    iterations: 1
"""


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/api/version", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _end(head: subprocess.Popen[bytes]) -> None:
    """Everything below the head at once: its own way to stop takes half a minute."""
    running = psutil.Process(head.pid).children(recursive=True)
    head.kill()
    head.wait()
    for process in running:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(running, timeout=30)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard's address of a Ray cluster of two CPUs that is nobody else's."""
    log_path = tmp_path_factory.mktemp("cluster") / "cluster.log"
    folder = tempfile.mkdtemp(prefix="ra-")  # short: Ray puts sockets under it, whose paths have a limit
    port, dashboard, client, agent = _free_ports(4)
    command = [BIN / "ray", "start", "--head", "--block", "--num-cpus=2", "--object-store-memory=268435456"]
    command += [f"--temp-dir={folder}", f"--port={port}", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    command += ["--include-dashboard=true", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    command += [f"--dashboard-agent-listen-port={agent}"]
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    url = f"http://127.0.0.1:{dashboard}"
    with log_path.open("w") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not _answers(url):
            assert head.poll() is None and time.monotonic() < deadline, log_path.read_text()
            time.sleep(0.5)
        yield url
    finally:
        _end(head)
        shutil.rmtree(folder, ignore_errors=True)


def _submit(cluster: str, folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    (folder / "job.yaml").write_text(JOB)
    command = [BIN / "ray", "job", "submit", f"--address={cluster}", "--working-dir=.", "--", "rayalign", "run"]
    command += [folder / "job.yaml", f"output={folder / 'runs'}", *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)


@pytest.mark.e2e
@pytest.mark.ray
def test_a_cluster_too_small_for_the_job_is_refused_before_anything_is_placed(cluster: str, tmp_path: Path) -> None:
    begin = time.monotonic()
    done = _submit(cluster, tmp_path, "stages.base.roles={policy: {cpus: 3}}", "cluster.scale_timeout=2")
    assert "stages.base.roles: asks for 3 cpus (policy 1 x 3), but there are 2;" in done.stdout, done.stdout
    assert "failed with exit code 2" in done.stdout
    assert time.monotonic() - begin < 120, "it must not wait for a place"


@pytest.mark.e2e
@pytest.mark.ray
def test_a_submitted_job_is_the_same_run(cluster: str, tmp_path: Path) -> None:
    done = _submit(cluster, tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    summary = json.loads((tmp_path / "runs" / "submitted" / "summary.json").read_text())
    assert [(s["name"], s["status"]) for s in summary["stages"]] == [
        (name, "finished") for name in ("base", "answers", "labels", "rm", "rrhf")
    ]
    assert str(tmp_path / "runs" / "submitted" / "report.html") in done.stdout
    assert summary["peak_memory_bytes"] > 1 << 30, "its actors, which are not its children, are counted"
    with urlopen(f"{cluster}/api/serve/applications/", timeout=60) as reply:
        left = json.load(reply)
    assert not left["applications"] and not left["proxies"], "the run ends the service that it started"
