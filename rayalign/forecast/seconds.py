"""From work to seconds: the ideal of each phase on given machines, which calibration then corrects.

A phase lasts as long as its busiest device; on CPUs, at least as long as all its work spread over all cores. The ideal
of an actor is the larger of operations over peak and bytes over bandwidth, plus a start for each pass through a layer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayalign.forecast.hardware import Hardware
from rayalign.forecast.iteration import Iteration, RoleWork
from rayalign.forecast.work import Work
from rayalign.pipeline.needs import GENERATOR
from rayalign.pipeline.plan import RolePlan, StagePlan

CORE_FLOPS = 50e9
"""nominal peak of one CPU core; what a core reaches is in the calibration [1/s]"""
CORE_BANDWIDTH = 8e9
"""nominal, of one core [bytes/s]"""
CPU_PASS = 300e-6
"""start of a pass through a layer on a CPU [s]"""
WIDE = 1024
"""hidden units from which each further CPU thread counts whole; of narrower matrices it gets too small pieces"""
BUSY_CORES = 0.7
"""what each core does when all are busy, beside one that is busy alone: hyperthreads share a core's units"""
DEVICE_PASS = 60e-6
"""the same on a GPU, about ten kernels [s]"""
GRAPH_PASS = 15e-6
"""the same in an engine, whose kernels start as one graph [s]"""
CALL = 5e-3
"""one call between processes [s]"""
STORE_BANDWIDTH = 1e9
"""through Ray's object store, with checksums on both sides [bytes/s]"""
HOST_BANDWIDTH = 20e9
"""between a device and pinned main memory [bytes/s]"""


@dataclass(frozen=True, slots=True)
class Ideal:
    """A phase, if everything reached its peak."""

    seconds: float
    core_seconds: float
    """of CPU cores; 0 where devices do the work"""


def ideal_seconds(
    work: Iteration, plan: StagePlan, hardware: Hardware, precisions: Mapping[str, str]
) -> dict[str, Ideal]:
    """The ideal of each phase that has work.

    Args:
        precisions: role -> `fp32` or `bf16`, in which it computes.
    """
    rates = Rates(plan, hardware, precisions)
    return {phase: rates.phase(phase, roles) for phase, roles in work.items() if roles}


class Rates:
    """How fast the actors of a stage work on given machines."""

    def __init__(self, plan: StagePlan, hardware: Hardware, precisions: Mapping[str, str]) -> None:
        self._hardware = hardware
        self._precisions = precisions
        self._roles = {role.role: role for role in plan.roles}
        self._logical = plan.logical

    def phase(self, name: str, works: Sequence[RoleWork]) -> Ideal:
        """The ideal of roles that work at the same time."""
        devices: dict[str, float] = defaultdict(float)
        longest = core_seconds = 0.0
        for each in works:
            plan = self._host(each.role)
            seconds = self._moving(each) if name == "turn" else self._own(each, plan)
            if plan is None or not self._on_device(plan):
                longest = max(longest, seconds)
                core_seconds += self._cores(each.work) * (plan.actors if plan else 1)
            else:
                for device in plan.device_numbers:
                    devices[device] += seconds
        spread = core_seconds / (BUSY_CORES * self._hardware.total.cpus)
        return Ideal(max([longest, spread, *devices.values()]), core_seconds)

    def _host(self, role: str) -> RolePlan | None:
        """The role in whose actors a role runs; None for the driver."""
        plan = self._roles.get(role)
        if plan is None:
            return None
        return self._roles[plan.within] if plan.within else plan

    def _on_device(self, plan: RolePlan) -> bool:
        return bool(plan.gpus) and not self._logical and self._hardware.device is not None

    @staticmethod
    def _moving(each: RoleWork) -> float:
        """Between a device and main memory."""
        return each.work.traffic / HOST_BANDWIDTH

    def _own(self, each: RoleWork, plan: RolePlan | None) -> float:
        """Seconds of one actor that has its cores or devices for itself."""
        work = each.work
        between = work.traffic / self._traffic_rate(each, plan) + work.calls * CALL
        if plan is None:
            return work.bytes / CORE_BANDWIDTH + between
        device = self._hardware.device
        if device is None or not self._on_device(plan):
            return self._cores(work) / self._speedup(each, plan) + between
        peak = device.bf16 if self._precisions.get(each.role) == "bf16" else device.fp32
        busy = max(work.flops / (peak * 1e12), work.bytes / (device.bandwidth * 1e9))
        start = GRAPH_PASS if each.role == GENERATOR else DEVICE_PASS
        return busy + work.layer_passes * start + between

    def _cores(self, work: Work) -> float:
        """Core-seconds of one actor on a CPU."""
        return max(work.flops / CORE_FLOPS, work.bytes / CORE_BANDWIDTH) + work.layer_passes * CPU_PASS

    def _speedup(self, each: RoleWork, plan: RolePlan) -> float:
        """How much faster an actor's threads are than one."""
        threads = max(1, min(plan.threads, int(self._hardware.total.cpus)))
        return 1 + (threads - 1) * BUSY_CORES * min(1.0, each.hidden / WIDE)

    def _traffic_rate(self, each: RoleWork, plan: RolePlan | None) -> float:
        """Between the ranks of a role, or from them to the engines [bytes/s]."""
        if plan is None or not self._on_device(plan):
            return STORE_BANDWIDTH
        peers = [plan]
        if each.to_engines and GENERATOR in self._roles:
            peers.append(self._roles[GENERATOR])
        machines = set()
        for peer in peers:
            machines |= {int(number) // self._hardware.machine_devices for number in peer.device_numbers}
        return (self._hardware.link if len(machines) == 1 else self._hardware.network) * 1e9
