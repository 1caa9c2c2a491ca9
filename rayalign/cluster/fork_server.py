"""The process that imports the large libraries once and forks itself for each worker (rayalign/cluster/forks.py).

    trunk    imports what every worker needs; forks for a worker that names no more
    branch   a fork of the trunk with more imports; one for each list of them
    worker   a fork of either, which leaves the loop and runs Ray's script in the place of a new Python

It runs as a script. It keeps to one thread, since a fork has no other thread than the one that forked.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

LARGEST_MESSAGE = 1 << 20
RAY_MODULES = ("ray", "rayalign.actors.worker", "ray._private.node", "ray._private.runtime_env.setup_hook")


@dataclass(frozen=True)
class Message:
    """A request for a worker, with descriptors of its three standard streams and of the connection to answer on."""

    data: bytes
    descriptors: tuple[int, ...]

    @property
    def worker(self) -> dict[str, Any]:
        """Its command, environment, folder and process group (fork_client.py)."""
        worker: dict[str, Any] = json.loads(self.data)
        return worker

    @property
    def imports(self) -> str:
        """The modules that it needs beside those of every worker, with commas between them."""
        return str(self.worker["environment"].get("RAYALIGN_IMPORTS", ""))

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


def main() -> None:
    """Import, serve, and in each fork become a worker."""
    settings = json.loads(sys.argv[2])
    sys.path[:] = settings["path"]
    load(settings["libraries"])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks that end leave no zombies
    message = grow(socket.socket(fileno=int(sys.argv[1])))
    if message:
        become(message)


def load(libraries: Sequence[str]) -> None:
    """Import modules, and keep the collector from them: it would write to the pages that forks share."""
    for library in libraries:
        importlib.import_module(library)
    gc.collect()
    gc.freeze()


def load_ray(environment: Mapping[str, str]) -> None:
    """Import Ray, which then reads the number of its job and the visible devices, the same for all workers.

    Args:
        environment: of the first worker; it may be one that hides the devices, as others do not.
    """
    os.environ.update(environment)
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    load(RAY_MODULES)


def grow(listener: socket.socket) -> Message | None:
    """The trunk: serve until the driver has ended. Returns in a fork, with the message of the worker to become."""
    branches: dict[str, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return None
        message = accept(listener)
        if message is None:
            continue
        if "ray" not in sys.modules:
            load_ray(message.worker["environment"])
        forked = not message.imports and fork(message)
        if message.imports and message.imports not in branches:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            branches[message.imports] = ours
            if os.fork() == 0:
                close(listener, *branches.values())
                message.close()
                return grow_branch(theirs, message)
            theirs.close()
        if forked:
            close(listener, *branches.values())
            return message
        if message.imports:
            forward(message, branches[message.imports])


def grow_branch(source: socket.socket, first: Message) -> Message | None:
    """A branch: import what the first message names, then serve until the trunk has ended. Returns as `grow` does."""
    os.environ.update(first.worker["environment"])
    load(first.imports.split(","))
    while True:
        message = receive(source)
        if message is None:
            return None
        if fork(message):
            close(source)
            return message


def accept(listener: socket.socket) -> Message | None:
    """The message of a new client; None where it has ended meanwhile."""
    connection, _ = listener.accept()
    message = receive(connection)
    if message is None:
        connection.close()
        return None
    return Message(message.data, (*message.descriptors, connection.detach()))


def receive(source: socket.socket) -> Message | None:
    """The next message of a socket; None at its end."""
    data, descriptors, _, _ = socket.recv_fds(source, LARGEST_MESSAGE, 4)
    return Message(data, tuple(descriptors)) if data else None


def forward(message: Message, branch: socket.socket) -> None:
    """Pass a message on. A client without an answer, as that of a branch that failed, starts Python itself."""
    with suppress(OSError):
        socket.send_fds(branch, [message.data], message.descriptors)
    message.close()


def fork(message: Message) -> bool:
    """Fork and answer; True in the child. It joins the client's process group, which Ray ends with the worker."""
    child = os.fork()
    if not child:
        return True
    try:
        os.setpgid(child, message.worker["group"])
        os.write(message.descriptors[3], b"1")
    except OSError:  # the client has ended, and nobody waits for this worker
        os.kill(child, signal.SIGKILL)
    message.close()
    return False


def become(message: Message) -> None:
    """Run the worker's script in this process, as if Python had just started with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for standard, descriptor in enumerate(message.descriptors[:3]):
        os.dup2(descriptor, standard)
    message.close()
    worker = message.worker
    os.chdir(worker["folder"])
    os.environ.clear()
    os.environ.update(worker["environment"])
    renew()
    sys.argv = worker["command"]
    runpy.run_path(sys.argv[0], run_name="__main__")


def renew() -> None:
    """Give this process the threads that its environment names, and seeds of its own."""
    import numpy
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.seed()
    numpy.random.seed()


def close(*sockets: socket.socket) -> None:
    """Close what a fork inherits and must not keep open."""
    for end in sockets:
        end.close()


if __name__ == "__main__":
    main()
