"""Workers: the processes of a run that take the roles of its stages, so that only its first stage waits for imports.

    start, reserve   before a stage begins    processes without a role import the large libraries
    take             a stage begins           a free process for each actor of its roles, or a new one
    release          the stage has ended      the roles end, the processes stay
    replace          a process was lost       another one takes its place
    kill             the stage has failed     the processes end with their roles

There are two kinds of processes. A plain one claims nothing that others could lack: it has no device, its role names no
CPUs, and there is one machine. All others share a placement group, which stays while stages need equal bundles.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any

import ray

from rayalign.actors.hosted import GROUPS
from rayalign.actors.place import Place
from rayalign.actors.worker import Worker
from rayalign.cluster.ending import end_actor
from rayalign.cluster.forks import LIBRARIES
from rayalign.cluster.placement import Claim, Placement, Slots, claims, free_cpus, process_environment
from rayalign.cluster.session import dead_actors, machines
from rayalign.cluster.threads import IDLE_ENGINES, EngineThreads, share_threads
from rayalign.config import ClusterConfig, RoleConfig

Hosting = Mapping[str, RoleConfig]
"""how each role of a stage is hosted"""
Bundles = tuple[tuple[float | None, float], ...]
"""CPUs and GPUs of each placed actor, as the job names them"""


class Process:
    """A worker process as the actor of its role, with the methods of that: `process.evaluate.remote(rows)`."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Start it with these options of Ray."""
        self.options = options
        self.actor = ray.remote(concurrency_groups=GROUPS)(Worker).options(**options).remote()
        self.threads = 1
        """of its role"""
        self.loaded = False
        """True where it has imported what models need, or is about to"""
        self.place: Place | None = None
        """None until it has been located"""

    @property
    def id(self) -> str:
        """Ray's id of the actor."""
        return str(self.actor._actor_id.hex())

    def __getattr__(self, name: str) -> _Method:
        if name.startswith("_"):
            raise AttributeError(name)
        return _Method(self.actor, name)

    @property
    def pulse(self) -> Any:
        """The heartbeat of the process, whatever its role."""
        return self.actor.pulse

    def kill(self, *, lost: bool = False) -> None:
        """End the process, whatever it is doing; where it is lost, it may be stopped on another machine."""
        end_actor(self.actor, self.place, lost=lost)


class _Method:
    """A method of the role in a worker, called as Ray calls those of an actor."""

    def __init__(self, actor: Any, name: str) -> None:
        self._actor, self._name = actor, name

    def remote(self, *arguments: Any) -> ray.ObjectRef:
        return self._actor.call.remote(self._name, *arguments)


@dataclass(slots=True, eq=False)
class _Placed:
    """The processes of one placement group."""

    bundles: Bundles
    placement: Placement
    processes: list[Process]
    free: bool = False

    def end(self) -> None:
        for process in self.processes:
            process.kill()
        self.placement.remove()


class Workers:
    """The worker processes of one run."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self._cluster = cluster
        self._free: list[Process] = []
        self._taken: list[Process] = []
        self._placed: list[_Placed] = []

    def start(self, hosting: Hosting) -> None:
        """Start the plain processes that the roles of a next stage will lack; they import on their own."""
        plain, _ = self._split(hosting)
        missing = sum(role.actors for role in plain.values()) - len(self._free) - len(self._taken)
        started = [self._start_plain() for _ in range(missing)]
        self._free += started
        _load_libraries(started)

    def reserve(self, hosting: Hosting) -> None:
        """Place and start the processes of the other roles, which stay free until these roles come."""
        _, placed = self._split(hosting)
        if placed:
            group = self._place(placed)
            group.free = True
            _load_libraries(group.processes)

    def take(
        self, hosting: Hosting, slots: Slots = MappingProxyType({}), engines: EngineThreads = IDLE_ENGINES
    ) -> dict[str, list[Process]]:
        """A process for each actor of the roles, with the threads that it gets; new ones where they share devices."""
        self._forget_dead()
        plain, placed = self._split(hosting)
        processes = self._take_placed(placed, slots) if placed else {}
        for name, role in plain.items():
            processes[name] = [self._take_plain(loaded=True) for _ in range(role.actors)]
        for name, threads in self.threads(hosting, engines).items():
            for process in processes[name]:
                process.threads = threads
        return {name: processes[name] for name in hosting}

    def take_helper(self) -> Process:
        """A process for an actor that claims nothing, wherever it runs."""
        process = self._take_plain(loaded=False)
        process.threads = 1
        return process

    def threads(self, hosting: Hosting, engines: EngineThreads = IDLE_ENGINES) -> dict[str, int]:
        """Threads of each role's actors on the machines of the session."""
        cores = min(os.cpu_count() or 1, int(machines()[0].get("CPU", 1))) if self.one_machine else 1
        return share_threads(hosting, cores, engines)

    def release(self, processes: Sequence[Process]) -> None:
        """Keep processes whose role has ended for the next stage."""
        for process in processes:
            if process in self._taken:
                self._taken.remove(process)
                self._free.append(process)
        for group in self._placed:
            group.free = group.free or any(process in group.processes for process in processes)

    def kill(self, processes: Sequence[Process]) -> None:
        """End processes, whatever they are doing, and what shares a placement group with one of them."""
        for process in processes:
            if process in self._taken:
                self._taken.remove(process)
                process.kill()
        for group in list(self._placed):
            if any(process in group.processes for process in processes):
                self._end(group)

    def replace(self, process: Process) -> Process:
        """End a process that was lost, and start another one with its threads in its place."""
        process.kill(lost=True)
        groups = [group for group in self._placed if process in group.processes]
        if groups:
            replacement = Process(process.options)
            places = groups[0].processes
            places[places.index(process)] = replacement
        else:
            self._taken.remove(process)
            self._forget_dead()
            replacement = self._take_plain(loaded=True)
        replacement.threads = process.threads
        return replacement

    def keep(self, hosting: Hosting) -> None:
        """Free the devices and CPUs that roles of earlier stages had, unless these roles need exactly the same."""
        bundles = _bundles(self._split(hosting)[1])
        for group in list(self._placed):
            if group.free and group.bundles != bundles:
                self._end(group)

    def stop(self) -> None:
        """End all processes."""
        for process in [*self._free, *self._taken]:
            process.kill()
        self._free, self._taken = [], []
        for group in list(self._placed):
            self._end(group)

    @property
    def one_machine(self) -> bool:
        """True where all processes that start now run on the same machine."""
        return len(machines()) == 1

    def _split(self, hosting: Hosting) -> tuple[dict[str, RoleConfig], dict[str, RoleConfig]]:
        """The roles of plain processes, and those that have to be placed."""
        one_machine = self.one_machine
        plain: dict[str, RoleConfig] = {}
        placed: dict[str, RoleConfig] = {}
        for name, role in hosting.items():
            kind = plain if one_machine and role.cpus is None and not role.gpus else placed
            kind[name] = role
        return plain, placed

    def _forget_dead(self) -> None:
        """Drop free processes that have ended since their last role."""
        dead = dead_actors()
        self._free = [process for process in self._free if process.id not in dead]
        for group in list(self._placed):
            if group.free and any(process.id in dead for process in group.processes):
                self._end(group)

    def _start_plain(self) -> Process:
        environment = process_environment(Claim(cpus=0.0, gpus=0.0, threads=1))
        options = {"num_cpus": 0, "runtime_env": {"env_vars": environment}}
        return Process(options)

    def _take_plain(self, *, loaded: bool) -> Process:
        """A free process, of both kinds one that fits; the role imports what is missing."""
        free = sorted(self._free, key=lambda process: process.loaded != loaded)
        process = free[0] if free else self._start_plain()
        if process in self._free:
            self._free.remove(process)
        process.loaded = process.loaded or loaded
        self._taken.append(process)
        return process

    def _take_placed(self, roles: Hosting, slots: Slots) -> dict[str, list[Process]]:
        self.keep({} if slots else roles)
        free = [group for group in self._placed if group.free]
        group = free[0] if free else self._place(roles, slots)
        group.free = False
        rest = iter(group.processes)
        return {name: list(islice(rest, role.actors)) for name, role in roles.items()}

    def _place(self, roles: Hosting, slots: Slots = MappingProxyType({})) -> _Placed:
        role_claims = claims(roles, free_cpus=free_cpus(), logical=self._cluster.logical_devices is not None)
        placement = Placement(roles, role_claims, timeout=self._cluster.start_timeout, slots=slots)
        processes = []
        for name, role in roles.items():
            for _ in range(role.actors):
                processes.append(Process(placement.options(role_claims[name], {})))
        group = _Placed(_bundles(roles), placement, processes)
        self._placed.append(group)
        return group

    def _end(self, group: _Placed) -> None:
        self._placed.remove(group)
        group.end()


def _load_libraries(processes: Sequence[Process]) -> None:
    for process in processes:
        process.loaded = True
        process.actor.load.remote(LIBRARIES)


def _bundles(roles: Hosting) -> Bundles:
    bundles: list[tuple[float | None, float]] = []
    for role in roles.values():
        bundles += [(role.cpus, role.gpus)] * role.actors
    return tuple(bundles)
