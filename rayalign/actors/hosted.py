"""What every actor answers, whatever its role."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray
import torch

from rayalign.actors.place import Place
from rayalign.actors.wire import Door, WireEnd
from rayalign.config import LearnerConfig

logger = logging.getLogger(__name__)
LOGICAL_VARIABLE = "RAYALIGN_LOGICAL_DEVICES"
"""environment variable with the names of a process's logical devices"""


@dataclass(frozen=True, slots=True)
class Pulse:
    """One heartbeat."""

    memory: int
    """resident, of the process [bytes]"""
    memory_kills: int
    """processes that the kernel of its machine has killed for memory so far"""
    working: float = 0.0
    """seconds since an engine began the step that it is in; 0 between two steps"""


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Which of a role's actors this is, and where they meet."""

    rank: int
    world: int
    address: str
    port: int
    spread: bool = False
    """they hold the role's frozen models in parts"""

    def enter(self) -> None:
        """Name rank, world and address in this process's environment, where torch.distributed looks for them."""
        os.environ.update(
            RANK=str(self.rank),
            LOCAL_RANK="0",
            LOCAL_SIZE="1",
            WORLD_SIZE=str(self.world),
            MASTER_ADDR=self.address,
            MASTER_PORT=str(self.port),
        )


@dataclass(frozen=True, slots=True)
class FrozenSpec:
    """What a frozen role is made from."""

    model: str
    config: LearnerConfig
    temperature: float
    policy: str
    """the model whose tokens it reads"""
    timeout: float
    """seconds until a batch made by another actor, or the scores of an annotator service, must be there"""


PULSE = "pulse"
"""Ray's concurrency group in which an actor answers its heartbeat"""
GROUPS = {PULSE: 1}
"""the concurrency groups of every actor class"""


class HostedActor:
    """Base of the roles' actors."""

    def where(self) -> Place:
        """Process, machine and a free port there, which is held: others that start meanwhile are given ports too."""
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the ranks' store, which takes it over
        self._held.bind(("", 0))
        # A process of its own without Ray is on no node, and to ask for one would start Ray.
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
        port = self._held.getsockname()[1]
        return Place(os.getpid(), ray.util.get_node_ip_address(), port, own_devices(), node)

    def pulse(self) -> Pulse:
        """The heartbeat; Ray serves it in a thread of its own, whatever the actor does."""
        return own_pulse()

    _wire: WireEnd | None = None

    def listen(self, threads: int) -> Door | None:
        """Open a door for the coordinator, and answer its calls in so many threads.

        Returns:
            None where the machine's address in Ray is not its own, but perhaps a gateway's.
        """
        self.hang_up()
        try:
            self._wire = WireEnd(self, ray.util.get_node_ip_address(), threads)
        except OSError as error:
            logger.warning("cannot listen for the coordinator: %s; Ray carries its calls, more slowly", error)
            return None
        return self._wire.door

    def hang_up(self) -> None:
        """End the wire to the coordinator, if there is one."""
        if self._wire is not None:
            self._wire.end()
        self._wire = None

    def close(self) -> None:
        """Release what the garbage collector would not."""

    @staticmethod
    def use_threads() -> None:
        """Let torch have the threads that the placement gave, whatever the libraries found by themselves."""
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def own_devices() -> tuple[str, ...]:
    """The devices of this process: the UUIDs of the GPUs that it sees, or the names of its logical devices."""
    logical = os.environ.get(LOGICAL_VARIABLE)
    if logical:
        return tuple(logical.split(","))
    if not torch.cuda.is_available():
        return ()
    return tuple(str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count()))


def own_pulse() -> Pulse:
    """The heartbeat of this process."""
    return Pulse(psutil.Process().memory_info().rss, memory_kills())


def memory_kills() -> int:
    """Processes of this machine, or of this container, that the kernel has killed for memory so far."""
    kills = 0
    for path in (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")):
        with suppress(OSError):
            lines = path.read_text().splitlines()
            counts = [int(line.split()[1]) for line in lines if line.startswith("oom_kill ")]
            kills = max(kills, *counts, 0)
    return kills


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    return port
