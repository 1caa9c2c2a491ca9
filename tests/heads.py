"""Ray clusters of this machine that are nobody else's: a head with its dashboard, and further nodes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil

BIN = Path(sys.executable).parent
START_SECONDS = 400.0
"""in which a node must be up, on a machine that is busy too"""
STARTS = 4
"""how often a node is started"""


@dataclass(frozen=True, slots=True)
class Head:
    """A head that runs."""

    url: str
    """of its dashboard"""
    address: str
    """that nodes and drivers join"""
    environment: Mapping[str, str]
    """of everything that talks to it"""


def environment(**more: str) -> dict[str, str]:
    """This process's environment without the token of the Ray session that other tests may have open.

    Ray starts a head with the token of ~/.ray where the user has one, and then its nodes and clients need it too; with
    a mode named, it leaves that file alone.
    """
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return {**plain, "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled", **more}


def free_ports(count: int) -> list[int]:
    """From between those that Ray gives its workers and those of whoever names none: nobody takes them meanwhile."""
    found: list[int] = []
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            break
    return found


@contextmanager
def ray_head(
    log_path: Path, *arguments: str, ip: str = "127.0.0.1", ports: Sequence[int] = (), **variables: str
) -> Iterator[Head]:
    """A head with a dashboard, started by `ray start` with further arguments.

    Args:
        log_path: where its lines go.
        ports: of the head itself, its dashboard, Ray's client and its agent; none: free ones.
        variables: of its environment.
    """
    folder = tempfile.mkdtemp(prefix="ra-")  # short: Ray puts sockets under it, whose paths have a limit
    port, dashboard, client, agent = ports or free_ports(4)
    command = [str(BIN / "ray"), "start", "--head", "--block", "--object-store-memory=268435456"]
    command += [f"--temp-dir={folder}", f"--port={port}", f"--node-ip-address={ip}", "--disable-usage-stats"]
    command += ["--include-dashboard=true", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    command += [f"--dashboard-agent-listen-port={agent}", *arguments]
    head = Head(f"http://127.0.0.1:{dashboard}", f"{ip}:{port}", environment(**variables))
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        undo.callback(end, _started(command, log_path, head.environment))
        deadline = time.monotonic() + START_SECONDS
        while not _answers(head.url):
            assert time.monotonic() < deadline, log_path.read_text()
            time.sleep(0.5)
        yield head


@contextmanager
def ray_node(head: Head, log_path: Path, *arguments: str, within: Sequence[str] = (), ip: str) -> Iterator[None]:
    """A further node, which has joined; `within` is a command that starts it in surroundings of its own."""
    command = [*within, str(BIN / "ray"), "start", "--block", f"--address={head.address}"]
    command += ["--object-store-memory=134217728", f"--node-ip-address={ip}", "--disable-usage-stats", *arguments]
    process = _started(command, log_path, head.environment)
    try:
        yield
    finally:
        end(process)


def _started(command: Sequence[str], log_path: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A node that is up; it is started again where a busy machine made it miss Ray's 30 s."""
    for _ in range(STARTS):
        process = start(command, log_path, variables)
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if "Ray runtime started" in log_path.read_text():
                return process
            time.sleep(0.5)
        end(process)
        if "timed out during startup" not in log_path.read_text():
            break
    raise AssertionError(log_path.read_text())


def start(command: Sequence[str], log_path: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process of its own session, whose lines go to a file."""
    with log_path.open("w") as log:
        return subprocess.Popen(command, env=dict(variables), stdout=log, stderr=log, start_new_session=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """Everything below a process at once: Ray's own way to stop takes half a minute, and ends what others have too."""
    running: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):  # it has ended by itself
        running = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for descendant in running:
        with suppress(psutil.NoSuchProcess):
            descendant.kill()
    psutil.wait_procs(running, timeout=30)


def rayalign(head: Head, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A command of rayalign that speaks to the head's dashboard."""
    command = [str(BIN / "rayalign"), *map(str, arguments), f"--address={head.url}"]
    environment = dict(head.environment)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200)


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/api/version", timeout=5) as reply:
            return bool(reply.status == 200)
    except HTTPError as error:
        return error.code == 401  # it wants a token
    except OSError:
        return False
