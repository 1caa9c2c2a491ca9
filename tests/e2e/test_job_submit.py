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
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(1800)]
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


def _environment() -> dict[str, str]:
    """This process's environment without the token of the Ray session that other tests may have open."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return {**environment, "PATH": f"{BIN}:{os.environ['PATH']}"}


def _free_ports(count: int) -> list[int]:
    """From between those that Ray gives its workers and those of whoever names none: nobody takes them meanwhile."""
    found: list[int] = []
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            break
    return found


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
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The dashboard's address of a Ray cluster of two CPUs that is nobody else's, and the folder of its logs."""
    log_path = tmp_path_factory.mktemp("cluster") / "cluster.log"
    folder = tempfile.mkdtemp(prefix="ra-")  # short: Ray puts sockets under it, whose paths have a limit
    port, dashboard, client, agent = _free_ports(4)
    command = [BIN / "ray", "start", "--head", "--block", "--num-cpus=2", "--object-store-memory=268435456"]
    command += [f"--temp-dir={folder}", f"--port={port}", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    command += ["--include-dashboard=true", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    command += [f"--dashboard-agent-listen-port={agent}"]
    url = f"http://127.0.0.1:{dashboard}"
    with log_path.open("w") as log:
        head = subprocess.Popen(command, env=_environment(), stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 400
        while not _answers(url):
            assert head.poll() is None and time.monotonic() < deadline, log_path.read_text()
            time.sleep(0.5)
        yield url, Path(folder) / "session_latest" / "logs"
    finally:
        _end(head)
        shutil.rmtree(folder, ignore_errors=True)


def _submit(
    cluster: tuple[str, Path], name: str, folder: Path, *overrides: str
) -> tuple[subprocess.CompletedProcess[str], str]:
    """How the submission ended, and what the job wrote: a client that was held up may have missed its last lines."""
    url, logs = cluster
    (folder / "job.yaml").write_text(JOB)
    command = [BIN / "ray", "job", "submit", f"--address={url}", f"--submission-id={name}", "--working-dir=."]
    command += ["--", "rayalign", "run", folder / "job.yaml", f"output={folder / 'runs'}", *overrides]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=1200)
    return done, (logs / f"job-driver-{name}.log").read_text()


def test_a_cluster_too_small_for_the_job_is_refused_before_anything_is_placed(
    cluster: tuple[str, Path], tmp_path: Path
) -> None:
    begin = time.monotonic()
    grow = "cluster.scale_timeout=2"
    done, told = _submit(cluster, "refused", tmp_path, "stages.base.roles={policy: {cpus: 3}}", grow)
    assert "stages.base.roles: asks for 3 cpus (policy 1 x 3), but there are 2;" in told, done
    assert "failed with exit code 2" in done.stdout
    assert time.monotonic() - begin < 290, "it must not wait for a place, for which it has 300 s"


def test_a_submitted_job_is_the_same_run(cluster: tuple[str, Path], tmp_path: Path) -> None:
    done, told = _submit(cluster, "whole", tmp_path)
    assert done.returncode == 0, f"{told}\n{done.stdout}\n{done.stderr}"
    summary = json.loads((tmp_path / "runs" / "submitted" / "summary.json").read_text())
    assert [(s["name"], s["status"]) for s in summary["stages"]] == [
        (name, "finished") for name in ("base", "answers", "labels", "rm", "rrhf")
    ]
    assert str(tmp_path / "runs" / "submitted" / "report.html") in told
    assert summary["peak_memory_bytes"] > 1 << 30, "its actors, which are not its children, are counted"
    with urlopen(f"{cluster[0]}/api/serve/applications/", timeout=60) as reply:
        left = json.load(reply)
    assert not left["applications"] and not left["proxies"], "the run ends the service that it started"
