"""The annotator's replicas under load on a cluster that grows: they come, no request is lost, they go."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import httpx
import psutil
import pytest

from tests.autoscaling.simulated import autoscaling_head
from tests.heads import BIN, Head, free_ports, start

pytestmark = [pytest.mark.autoscaling, pytest.mark.ray, pytest.mark.timeout(1800)]
PATIENCE = 300.0
CLIENTS = 64
SERVICE = """\
port: PORT
haproxy: HAPROXY
replicas: 1
max_replicas: 3
cpus: 1.0
cache: sqlite:///FOLDER/verdicts.db
access: {open: true}
annotators:
  slow:
    judge: {kind: llm, model: judge, base_url: JUDGE, template: pairs, concurrency: 1000}
"""


class Judge(BaseHTTPRequestHandler):
    """A language model that takes a second for its verdict."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(1.0)
        message = {"role": "assistant", "content": "Output (a)"}
        body = {
            "id": "1", "object": "chat.completion", "created": 0, "model": "judge",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11},
        }  # fmt: skip
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: object) -> None:
        pass


class JudgeServer(ThreadingHTTPServer):
    """Takes all clients at once."""

    request_queue_size = 4 * CLIENTS


@pytest.fixture
def judge() -> Iterator[str]:
    """The address of a slow language model."""
    with JudgeServer(("127.0.0.1", 0), Judge) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def replicas(head: Head) -> int:
    """The front's replicas that run."""
    with urlopen(f"{head.url}/api/serve/applications/", timeout=60) as reply:
        applications = json.load(reply)["applications"]
    front = applications["annotator"]["deployments"]["front"]["replicas"]
    return sum(replica["state"] == "RUNNING" for replica in front)


def listeners(port: int) -> set[str]:
    """The names of the processes that listen at a port."""
    found = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port]
    return {psutil.Process(connection.pid).name() for connection in found}


def ask(client: httpx.Client, number: int) -> Any:
    """One verdict that nobody has asked for before."""
    pair = {"instruction": f"question {number}", "output_1": "yes", "output_2": "no"}
    reply = client.post("/v1/preferences", json={"annotator": "slow", "pairs": [pair]})
    return reply.status_code, reply.json()


def load(url: str, head: Head) -> tuple[list[Any], int]:
    """Requests of many clients until three replicas run, or the time is over; all replies, and the most replicas."""
    replies: list[Any] = []
    stopped = threading.Event()

    def client(number: int) -> None:
        with httpx.Client(base_url=url, timeout=120.0) as connection:
            count = 0
            while not stopped.is_set():
                replies.append(ask(connection, number + CLIENTS * count))
                count += 1

    with ThreadPoolExecutor(CLIENTS) as clients:
        running = [clients.submit(client, number) for number in range(CLIENTS)]
        most, deadline = 0, time.monotonic() + PATIENCE
        while most < 3 and time.monotonic() < deadline:
            most = max(most, replicas(head))
            time.sleep(1.0)
        stopped.set()
        for each in running:
            each.result()
    return replies, most


@pytest.mark.parametrize("haproxy", [False, True], ids=["proxy", "haproxy"])
def test_replicas_come_under_load_and_go_after_it_and_nothing_is_lost(
    tmp_path: Path, judge: str, haproxy: bool
) -> None:
    port = free_ports(5)[4]
    text = SERVICE.replace("PORT", str(port)).replace("FOLDER", str(tmp_path)).replace("JUDGE", judge)
    (tmp_path / "service.yaml").write_text(text.replace("HAPROXY", str(haproxy).lower()))
    log = tmp_path / "service.log"
    url = f"http://127.0.0.1:{port}"
    # The judge runs on the cluster's machines, so its key is there.
    own = {"RAY_SERVE_ENABLE_HA_PROXY": str(int(haproxy)), "OPENAI_API_KEY": "none"}
    with autoscaling_head(tmp_path, most=3, cpus=1, **own) as head:
        variables = {**head.environment, "RAY_ADDRESS": head.address}
        service = start([str(BIN / "rayalign"), "serve", str(tmp_path / "service.yaml")], log, variables)
        try:
            wait_until(lambda: "annotators at" in log.read_text(), service, log)
            assert replicas(head) == 1
            assert ("haproxy" in listeners(port)) is haproxy
            replies, most = load(url, head)
            assert most == 3
            refused = [reply for status, reply in replies if status != 200]
            assert len(replies) > CLIENTS and refused == []
            annotations = [reply["annotations"][0] for _, reply in replies]
            assert [annotation["reason"] for annotation in annotations if annotation["preference"] is None] == []
            wait_until(lambda: replicas(head) == 1, service, log)
        finally:
            service.send_signal(signal.SIGINT)
            service.wait(120)
    assert service.returncode == 0, log.read_text()


def wait_until(condition: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(1.0)
