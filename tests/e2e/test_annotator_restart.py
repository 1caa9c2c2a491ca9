"""A run whose reward is asked over HTTP, while the service dies and comes back: it waits, and loses nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.models.load import make_preset
from tests.e2e.runs import PROMPTS, Ending, Run, accounts
from tests.ports import held_port

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(1800)]
ITERATIONS = 3
JOB = """\
name: tiny
cluster: {cpus: 2, object_store: 134217728, call_timeout: 300}
rollout: {engines: 1, context: 96, max_sequences: 32, cache_bytes: 33554432}
annotator: {url: "URL"}
stages:
  rrhf:
    kind: train
    algorithm: {name: rrhf}
    model: MODEL
    reward: annotator:gold
    candidates: [{source: live, count: 2}]
    prompts: 8
    iterations: 3
    sampling: {max_tokens: 8}
    learner: {learning_rate: 1e-4, minibatch: 16}
"""
SERVICE = """
import os, signal, sys
import uvicorn
from rayalign.annotator.service import Front
from rayalign.config import ServiceConfig

port, fatal = map(int, sys.argv[1:])
config = ServiceConfig.model_validate({"annotators": {"gold": {"judge": {"kind": "rubric"}}}})
front, asked = Front(config.model_dump(mode="json"), {}, {}).__serve_build_asgi_app__(), 0

async def service(scope, receive, send):
    global asked
    asked += scope["type"] == "http" and scope["path"] == "/v1/scores"
    if asked == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    await front(scope, receive, send)

uvicorn.run(service, port=port, log_level="warning")
"""


@contextmanager
def served(folder: Path, port: int, fatal: int) -> Iterator[subprocess.Popen[bytes]]:
    """What one replica of the service runs; request number `fatal` for scores finds it killed before the answer."""
    process = subprocess.Popen([sys.executable, "-c", SERVICE, str(port), str(fatal)], cwd=folder)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture
def port() -> Iterator[int]:
    with held_port() as held:
        yield held


def test_a_service_that_dies_and_comes_back_costs_time_and_no_group(tmp_path: Path, port: int) -> None:
    make_preset("nano", build_tokenizer(), 0, tmp_path / "model")
    (tmp_path / "job.yaml").write_text(
        JOB.replace("URL", f"http://127.0.0.1:{port}").replace("MODEL", str(tmp_path / "model"))
    )
    run, endings = Run(tmp_path / "runs", tmp_path / "job.yaml"), list[Ending]()
    running = threading.Thread(target=lambda: endings.append(run.finish()), daemon=True)
    with served(tmp_path, port, 2) as service:  # an iteration asks once
        running.start()
        while service.poll() is None and running.is_alive():
            time.sleep(0.1)
    away = time.time()
    with served(tmp_path, port, -1):
        running.join(timeout=900)
    assert service.returncode == -signal.SIGKILL
    assert endings[0].code == 0, endings[0].text
    account = accounts(run, "rrhf")
    account.check(ended=True)
    assert len(account.consumed) == ITERATIONS * PROMPTS and not account.dropped
    ends = [row["time"] for row in run.events() if row.get("name") == "update"]
    assert len(ends) == ITERATIONS and ends[0] < away < ends[1], "it went away in the second iteration"
