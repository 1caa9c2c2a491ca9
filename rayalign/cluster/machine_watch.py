"""What a run has on the cluster's other machines: its memory and its logs, which reach the run's folder.

driver    Watches ---- one actor on each other machine, which claims nothing
              |            memory thread: the peak of this run's processes there
              |            logs: the last part of each worker's log
              +-- logs/ADDRESS-PID.log
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, NodeDiedError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayalign.cluster.memory import PeakMemory
from rayalign.cluster.session import processes_here
from rayalign.storage.records import atomic_write

logger = logging.getLogger(__name__)
T = TypeVar("T")
DEADLINE = 60.0
"""seconds until the other machines must have answered"""
COUNTING_OUT = 90.0
"""seconds in which Ray must have noticed that a machine is gone or has stopped"""
LOG_BYTES = 1 << 20
"""kept of each log, the last ones"""


class MachineWatch:
    """An actor on one machine."""

    def __init__(self) -> None:
        self._memory = PeakMemory(processes_here)
        self._memory.__enter__()

    def peak(self) -> int:
        """The largest sum of this run's processes there until now [bytes]."""
        self._memory.look()
        return self._memory.peak

    def logs(self) -> dict[int, str]:
        """The log of each process of this run there, by its id."""
        texts: dict[int, str] = {}
        for path in own_logs():
            pid = int(path.stem.rpartition("-")[2])
            texts[pid] = texts.get(pid, "") + _last_bytes(path)
        return {pid: text for pid, text in texts.items() if text.strip()}


class Watches:
    """The watches of a run, one for each machine but the driver's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._watches: dict[str, Any] = {}
        """Ray's id of a machine -> its actor"""
        self._addresses: dict[str, str] = {}
        self._peaks: dict[str, int] = {}

    @property
    def peak(self) -> int:
        """The sum of each other machine's peak [bytes]."""
        return sum(self._peaks.values())

    def extend(self) -> None:
        """Watch machines that have come since the last call."""
        for node, address in other_machines().items():
            if node not in self._watches:
                on_node = NodeAffinitySchedulingStrategy(node, soft=False)
                kind = ray.remote(MachineWatch).options(num_cpus=0, scheduling_strategy=on_node)
                self._watches[node] = kind.remote()
                self._addresses[node] = address

    def collect(self) -> None:
        """Bring peaks and logs to the run's folder; what a machine that has gone knew last is kept."""
        for node, watch in list(self._watches.items()):
            try:
                peak, logs = ray.get([watch.peak.remote(), watch.logs.remote()], timeout=DEADLINE)
            except (RayError, GetTimeoutError) as error:
                logger.warning("the machine %s is gone, or does not answer: %s", self._addresses[node], error)
                del self._watches[node]
                continue
            self._peaks[node] = max(peak, self._peaks.get(node, 0))
            self._write(self._addresses[node], logs)

    def _write(self, address: str, logs: Mapping[int, str]) -> None:
        for pid, text in logs.items():
            atomic_write(self._folder / f"{address}-{pid}.log", [text])


def other_machines() -> dict[str, str]:
    """Ray's id and the address of each machine but this one."""
    here = ray.get_runtime_context().get_node_id()
    alive = [node for node in ray.nodes() if node["Alive"]]
    return {node["NodeID"]: node["NodeManagerAddress"] for node in alive if node["NodeID"] != here}


def await_lost_machines() -> None:
    """Wait until Ray counts out each machine that is gone, or for long enough.

    Ray counts a machine out by its own health check, which may come much later than a missing heartbeat. Until then Ray
    gives away the machine's room again.
    """
    probes = []
    for node in other_machines():
        on_node = NodeAffinitySchedulingStrategy(node, soft=False)
        probes.append(ray.remote(_answer).options(num_cpus=0, scheduling_strategy=on_node).remote())
    if probes:  # a task on a machine that is counted out ends with an error
        ray.wait(probes, num_returns=len(probes), timeout=COUNTING_OUT)


def _answer() -> None:
    """What a machine does that is still there."""


def own_logs(pid: int | None = None) -> list[Path]:
    """The logs of this driver's workers on the machine that calls, or of one of them."""
    folder = Path(ray._private.worker._global_node.get_logs_dir_path())
    job = ray.get_runtime_context().get_job_id()
    process = "*" if pid is None else str(pid)
    return sorted(folder.glob(f"worker-*-{job}-{process}.*"))


def last_log_lines(pid: int, address: str = "", count: int = 15) -> str:
    """The last log lines of the worker with this pid on the machine of that address; empty where there are none."""
    if not ray.is_initialized():
        return ""
    try:
        return ask_machine(address, _tail, pid, count)
    except (RayError, GetTimeoutError):  # the machine went with its process
        return ""


def ask_machine(address: str, function: Callable[..., T], *arguments: Any, timeout: float = DEADLINE) -> T:
    """What a function says on the machine of an address.

    Raises:
        RayError: the machine is gone, or did not answer in time.
    """
    nodes = [node for node, its_address in other_machines().items() if its_address == address]
    here = address in ("", ray.util.get_node_ip_address())
    if here:
        return function(*arguments)
    if not nodes:
        raise NodeDiedError(f"the machine {address} is gone")
    on_node = NodeAffinitySchedulingStrategy(nodes[0], soft=False)
    asking = ray.remote(function).options(num_cpus=0, scheduling_strategy=on_node).remote(*arguments)
    answer: T = ray.get(asking, timeout=timeout)
    return answer


def _tail(pid: int, count: int) -> str:
    lines: list[str] = []
    for path in own_logs(pid):
        lines += path.read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines[-count:] if not line.startswith(":"))


def _last_bytes(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - LOG_BYTES))
        return file.read().decode(errors="replace")
