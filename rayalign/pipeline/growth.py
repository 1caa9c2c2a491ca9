"""Waiting until a cluster has what a stage needs.

    a stage begins -> demand its bundles -> wait, and log need, has and pending -> the stage starts
                                            |- nothing is on its way for a while, or the deadline passes: refused

The demand of a stage stays until the next one begins: an autoscaling cluster keeps its machines, and may release those
that the next stage has no use for. A cluster has one demand, Ray's, so that of two runs the later one counts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from rayalign.cluster.growth import Pending
from rayalign.config import LoadedJob
from rayalign.pipeline.checks import devices, refuse
from rayalign.pipeline.machine import Machine
from rayalign.pipeline.plan import Plan, StagePlan, plan

logger = logging.getLogger(__name__)
GROW = "add machines (a run waits for those that the cluster adds by itself, up to cluster.scale_timeout)"
LOOK = 1.0
"""seconds between two looks at the cluster"""
REPORT = 30.0
"""seconds between two lines of the log while a run waits"""
STANDSTILL = 120.0
"""seconds without any machine on its way after which a cluster does not grow"""
Resources = dict[str, float]


class Cluster(Protocol):
    """What is asked of a session that has joined a cluster."""

    def resources(self) -> Resources:
        """Those of all machines now."""
        ...

    def machines(self) -> list[Resources]:
        """Those of each machine now."""
        ...

    def demand(self, bundles: list[Resources]) -> None:
        """Request that the cluster has room for these."""
        ...

    def pending(self) -> Pending:
        """What it is adding."""
        ...


class Growth:
    """The growth of one run's cluster, stage by stage."""

    def __init__(
        self,
        loaded: LoadedJob,
        cluster: Cluster,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._loaded = loaded
        self._cluster = cluster
        self._timeout = loaded.job.cluster.scale_timeout
        self._clock = clock
        self._sleep = sleep

    def refuse_oversize(self) -> None:
        """Refuse stages that do not fit where the cluster must have everything from the start.

        Raises:
            InputError: one line for each such stage.
        """
        if not self._timeout:
            refuse(self._loaded, devices(self._plan(), self._size(), remedy=GROW))

    def wait_for(self, name: str) -> None:
        """Wait until the cluster has what a stage needs.

        Raises:
            InputError: it has not got there in time, or does not grow; with need, has and pending.
        """
        if not self._timeout:
            return
        begin = self._clock()
        moved, reported, before = begin, begin - REPORT, self._cluster.resources()
        stage = _stage(self._plan(), name)
        self._cluster.demand(stage.bundles)
        while (lacks := self._lacks(stage)) is not None:
            now, has, pending = self._clock(), self._cluster.resources(), self._cluster.pending()
            state = f"{lacks}, pending {pending}"
            if pending or has != before:
                moved, before = now, has
            if now - begin >= self._timeout:
                self._refuse(name, f"{state}: not there after {now - begin:.0f} s (cluster.scale_timeout)")
            if now - moved >= STANDSTILL:
                self._refuse(name, f"{state}: no machine is on its way since {STANDSTILL:.0f} s")
            if now - reported >= REPORT:
                logger.info("%s waits for the cluster: %s", name, state)
                reported = now
            self._sleep(LOOK)

    def end(self) -> None:
        """Let the cluster shrink."""
        if self._timeout:
            self._cluster.demand([])

    def _refuse(self, name: str, state: str) -> None:
        refuse(self._loaded, [(f"stages.{name}.roles", f"{state}; ask for fewer devices, or {GROW}")])

    def _lacks(self, stage: StagePlan) -> str | None:
        """Need and has in words; None where the stage fits."""
        has, machines = self._cluster.resources(), self._cluster.machines()
        kinds = [("GPU", float(stage.devices)), ("CPU", stage.cpus)]
        needs = {kind: amount for kind, amount in kinds if amount}
        enough = all(amount <= has.get(kind, 0.0) + 0.01 for kind, amount in needs.items())
        homeless = [bundle for bundle in stage.bundles if not any(_fits(bundle, machine) for machine in machines)]
        if enough and not homeless:
            return None
        needed = ", ".join(f"{amount:g} {kind}" for kind, amount in needs.items())
        present = ", ".join(f"{has.get(kind, 0.0):g} {kind}" for kind in needs)
        largest = f" with {_words(homeless[0])} on one machine" if enough else ""
        return f"needs {needed}{largest}, has {present}"

    def _plan(self) -> Plan:
        return plan(self._loaded.job, self._size())

    def _size(self) -> Machine:
        """The cluster as if it were one machine; on a head without CPUs, roles that name none still need some."""
        has = self._cluster.resources()
        return Machine(has.get("CPU", 0.0) or 1.0, int(has.get("GPU", 0)), int(has.get("memory", 0)), 0)


def _stage(planned: Plan, name: str) -> StagePlan:
    return next(stage for stage in planned.stages if stage.name == name)


def _fits(bundle: Resources, machine: Resources) -> bool:
    return all(amount <= machine.get(kind, 0.0) + 0.01 for kind, amount in bundle.items())


def _words(bundle: Resources) -> str:
    return " and ".join(f"{amount:g} {kind}" for kind, amount in bundle.items() if amount)
