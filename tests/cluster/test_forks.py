"""Workers as forks of one process: what they get, what they share, and what happens where there is no server."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rayalign.cluster import forks
from rayalign.cluster.forks import IMPORTS, ForkServer

REPORT = """\
import json, os, sys
print("to stderr", file=sys.stderr)
state = {
    "parent": os.getppid(),
    "group": os.getpgrp(),
    "folder": os.getcwd(),
    "arguments": sys.argv[1:],
    "colour": os.environ.get("COLOUR"),
    "table": "tabnanny" in sys.modules,
    "main": __name__,
    "draw": __import__("numpy").random.rand(),
}
with open(sys.argv[1] + ".part", "w") as file:
    json.dump(state, file)
os.rename(sys.argv[1] + ".part", sys.argv[1])
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """A server whose forks share no large library."""
    server = ForkServer({"OMP_NUM_THREADS": "1"}, libraries=("rayalign",))
    yield server
    server.stop()


def start(command: str, folder: Path, **environment: str) -> dict[str, Any]:
    """Start the script as Ray starts a worker; the state that it reports, and the id of the command's own process."""
    script, report = folder / "report.py", folder / f"state-{len(list(folder.iterdir()))}.json"
    script.write_text(REPORT)
    client = subprocess.Popen(
        [*shlex.split(command), str(script), str(report)],
        cwd=folder,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        process_group=0,
    )
    errors = client.communicate(timeout=60.0)[1]
    assert client.returncode == 0
    deadline = time.monotonic() + 60.0
    while not report.exists():
        assert time.monotonic() < deadline, "the script has not reported"
        time.sleep(0.01)
    return {**json.loads(report.read_text()), "client": client.pid, "errors": errors.decode()}


def test_a_worker_is_a_fork_with_the_environment_of_its_command(server: ForkServer, tmp_path: Path) -> None:
    state = start(server.command, tmp_path, COLOUR="blue")
    assert state["parent"] == server.pid
    assert state["folder"] == str(tmp_path)
    assert state["arguments"][0].endswith(".json")
    assert state["colour"] == "blue"
    assert state["main"] == "__main__"
    assert "to stderr" in state["errors"]


def test_a_worker_joins_the_process_group_that_ray_ends_with_it(server: ForkServer, tmp_path: Path) -> None:
    state = start(server.command, tmp_path)
    assert state["group"] == state["client"]


def test_workers_draw_different_numbers(server: ForkServer, tmp_path: Path) -> None:
    assert start(server.command, tmp_path)["draw"] != start(server.command, tmp_path)["draw"]


def test_workers_with_more_imports_share_a_branch(server: ForkServer, tmp_path: Path) -> None:
    plain = start(server.command, tmp_path)
    first, second = (start(server.command, tmp_path, **{IMPORTS: "tabnanny,this"}) for _ in range(2))
    assert not plain["table"]
    assert first["table"] and second["table"]
    assert first["parent"] == second["parent"] != server.pid


def test_a_worker_whose_imports_fail_is_started_without_them(server: ForkServer, tmp_path: Path) -> None:
    state = start(server.command, tmp_path, **{IMPORTS: "no_such_module"})
    assert state["parent"] == os.getpid()
    assert state["arguments"]


def test_without_a_server_the_command_is_python(tmp_path: Path) -> None:
    server = ForkServer({}, libraries=("no_such_module",))
    state = start(server.command, tmp_path)
    server.stop()
    assert state["parent"] == os.getpid()
    assert "to stderr" in state["errors"]


def test_a_client_that_is_killed_costs_the_server_nothing(server: ForkServer, tmp_path: Path) -> None:
    script = tmp_path / "sleep.py"
    script.write_text("import time; time.sleep(60)")
    for _ in range(5):
        client = subprocess.Popen([*shlex.split(server.command), str(script)], process_group=0)
        client.kill()
        client.wait(timeout=10.0)
    assert start(server.command, tmp_path)["parent"] == server.pid


def test_the_server_ends_with_its_driver() -> None:
    script = """\
import os
from rayalign.cluster.forks import ForkServer
print(ForkServer({}, ("rayalign",)).pid, flush=True)
os._exit(1)
"""
    driver = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60.0, check=False)
    server, deadline = int(driver.stdout), time.monotonic() + 30.0
    while psutil.pid_exists(server):
        assert time.monotonic() < deadline, "the server still runs"
        time.sleep(0.05)


@pytest.mark.ray
@pytest.mark.skipif(not forks.possible(), reason="a process with a GPU must not fork")
def test_actors_of_a_local_session_share_their_imports(ray_session: None) -> None:
    import ray

    from rayalign.actors.worker import Worker

    workers = [ray.remote(Worker).options(num_cpus=0).remote() for _ in range(2)]
    ids = [worker.__ray_call__.remote(lambda self: (os.getpid(), os.getppid())) for worker in workers]
    pids = ray.get(ids, timeout=60.0)
    for worker in workers:
        ray.kill(worker)
    (first, parent), (second, other_parent) = pids
    assert first != second
    assert parent == other_parent
    assert "fork_server" in " ".join(psutil.Process(parent).cmdline())
