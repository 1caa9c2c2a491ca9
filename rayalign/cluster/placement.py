"""Placement: roles -> bundles -> devices. One placement group holds every actor of a stage's declared roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rayalign.cluster.nodes import nodes_of_roles
from rayalign.config import RoleConfig
from rayalign.errors import DeadlineError, InputError

NODE_LABEL = "ray.io/node-id"


@dataclass(frozen=True, slots=True)
class Claim:
    """What one actor of a role asks for."""

    cpus: float
    gpus: float
    threads: int
    logical: bool = False
    """its GPUs are Ray's numbers alone: the actor computes on the CPU"""

    @property
    def bundle(self) -> dict[str, float]:
        """The claim in Ray's words."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


def claims(roles: Mapping[str, RoleConfig], *, free_cpus: float, logical: bool = False) -> dict[str, Claim]:
    """The claim of each role's actors; where no CPUs are named, an even share of what is free, from 0.01 to one.

    Args:
        logical: the session's devices are logical ones.
    """
    unnamed = sum(role.actors for role in roles.values() if role.cpus is None)
    named = sum(role.actors * role.cpus for role in roles.values() if role.cpus is not None)
    share = min(1.0, max(int(100 * (free_cpus - named) / unnamed), 1) / 100) if unnamed else 0.0
    return {
        name: Claim(role.cpus or share, role.gpus, role.threads or max(1, int(role.cpus or 1)), logical)
        for name, role in roles.items()
    }


def free_cpus() -> float:
    """CPUs that no actor holds now."""
    return float(ray.available_resources().get("CPU", 0.0))


@dataclass(frozen=True, slots=True)
class Slot:
    """The devices of one actor, which are reserved already and which other actors use too."""

    node: str
    """Ray's id of their machine"""
    devices: tuple[str, ...]
    """UUIDs of GPUs, or names of logical devices"""
    environment: Mapping[str, str]
    """what shows these devices alone to the actor's process"""


Slots = Mapping[str, Sequence[Slot]]
"""a slot for each actor of the roles on shared devices"""


def reserve(
    bundles: list[dict[str, float]], timeout: float, selectors: list[dict[str, str]] | None = None
) -> PlacementGroup:
    """A placement group of these bundles, once the cluster has room for them.

    Raises:
        InputError: the cluster is too small for them.
        DeadlineError: others have what they need.
    """
    group = placement_group(bundles, strategy="PACK", bundle_label_selector=selectors)
    if not group.wait(timeout_seconds=timeout):
        remove_placement_group(group)
        raise _cannot_place(bundles, timeout)
    return group


class Placement:
    """A placement group over the claims of several roles; index i is the i-th actor in the roles' order."""

    def __init__(
        self,
        roles: Mapping[str, RoleConfig],
        claims: Mapping[str, Claim],
        *,
        timeout: float,
        slots: Slots = MappingProxyType({}),
    ) -> None:
        """An actor with a slot claims CPUs alone, on the machine of its devices."""
        by_role: dict[str, list[dict[str, float]]] = {}
        for name, role in roles.items():
            bundle = {"CPU": claims[name].cpus} if name in slots else claims[name].bundle
            by_role[name] = [bundle] * role.actors
        homes = _homes(by_role)
        bundles: list[dict[str, float]] = []
        selectors: list[dict[str, str]] = []
        self._slots: list[Slot | None] = []
        for name, own in by_role.items():
            bundles += own
            role_slots = slots.get(name, [None] * len(own))
            self._slots += role_slots
            for slot in role_slots:
                node = slot.node if slot else homes.get(name)
                selectors.append({NODE_LABEL: node} if node else {})
        self._group = reserve(bundles, timeout, selectors)
        self._next = 0

    def options(self, claim: Claim, environment: Mapping[str, str]) -> dict[str, Any]:
        """Ray's options for the next actor."""
        index, self._next = self._next, self._next + 1
        slot = self._slots[index]
        devices = slot.environment if slot else {}
        return {
            "num_cpus": claim.cpus,
            "num_gpus": 0 if slot else claim.gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=index),
            "runtime_env": {"env_vars": {**process_environment(claim), **environment, **devices}},
        }

    def remove(self) -> None:
        """Give the bundles back."""
        remove_placement_group(self._group)


def process_environment(claim: Claim) -> dict[str, str]:
    """What must be said before a library is loaded: threads, passive waiting, and what becomes of freed memory.

    Passive waiting keeps idle teams off the cores. Freed memory is kept, since the next update or reload takes as much
    again, and pages that were given back cost a fault each. Ray leaves all devices of the machine visible to an actor
    that claims none, so they are hidden here.
    """
    count = str(claim.threads)
    on_gpu = claim.gpus > 0 and not claim.logical
    hidden_devices = {} if on_gpu else {"CUDA_VISIBLE_DEVICES": ""}
    return {
        **hidden_devices,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
        "MALLOC_ARENA_MAX": "1",
        "DS_ACCELERATOR": "cuda" if on_gpu else "cpu",
    }


def _homes(bundles: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, str]:
    """A node for each role; empty on one machine, and where Ray has to spread a role."""
    free = ray._private.state.available_resources_per_node()
    return nodes_of_roles(bundles, free) if len(free) > 1 else {}


def _cannot_place(bundles: list[dict[str, float]], timeout: float) -> Exception:
    total, free = ray.cluster_resources(), ray.available_resources()
    shortages = []
    fits = True
    for kind in ("CPU", "GPU"):
        needed = sum(bundle.get(kind, 0.0) for bundle in bundles)
        fits = fits and needed <= total.get(kind, 0.0)
        if needed:
            available = f"{free.get(kind, 0):g} free of {total.get(kind, 0):g}"
            shortages.append(f"{needed:g} {kind} needed, {available}")
    text = ", ".join(shortages)
    if not fits:
        return InputError(f"the roles do not fit on this cluster: {text}; ask for fewer actors or add machines")
    return DeadlineError(f"no room for the roles after {timeout:.0f} s: {text}; is another run holding them?")
