"""What every actor answers, whatever its role."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import ray
import torch


@dataclass(frozen=True, slots=True)
class Place:
    """Where an actor runs."""

    pid: int
    address: str
    port: int
    """a free one, at the moment of asking"""


class HostedActor:
    """Base of the roles' actors."""

    def where(self) -> Place:
        """Process, machine and a free port there."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return Place(os.getpid(), ray.util.get_node_ip_address(), probe.getsockname()[1])

    @staticmethod
    def use_threads() -> None:
        """Let torch have the threads that the placement gave, whatever the libraries found by themselves."""
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
