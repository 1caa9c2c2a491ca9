"""The resources of this machine, read from the system without a library."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from rayalign.config import ClusterConfig


@dataclass(frozen=True, slots=True)
class Machine:
    """The resources that a job is planned against."""

    cpus: float
    gpus: int
    memory: int
    """[bytes]"""
    shared_memory: int
    """size of /dev/shm, where Ray keeps its objects [bytes]"""


def this_machine() -> Machine:
    """The machine that this process runs on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared = Path("/dev/shm")
    size = shutil.disk_usage(shared).total if shared.is_dir() else 0
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return Machine(float(os.cpu_count() or 1), gpus, memory, size)


def planned_machine(config: ClusterConfig) -> Machine | None:
    """The local session's machine; None where the job goes to a cluster that is not this machine."""
    if config.address or os.environ.get("RAY_ADDRESS"):
        return None
    here = this_machine()
    gpus = here.gpus if config.devices is None else config.devices
    return Machine(config.cpus or here.cpus, gpus, here.memory, here.shared_memory)
