"""Threads of the roles' actors on one machine: what runs at the same time shares its cores. This module knows no Ray.

phase       roles                                   beside them
update      policy, critic, a rank of a loop        engines, where samples may be stale
evaluate    policy, critic, reference
score       reward                                  engines
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayalign.config import RoleConfig

MOST = 16
"""threads of one actor that the job gives none: of small models' matrices, more threads get too small pieces"""
FROZEN = ("reference", "reward")


@dataclass(frozen=True, slots=True)
class EngineThreads:
    """Threads of all engines that are busy in a phase."""

    update: int = 0
    score: int = 0


IDLE_ENGINES = EngineThreads()


def share_threads(roles: Mapping[str, RoleConfig], cores: int, engines: EngineThreads = IDLE_ENGINES) -> dict[str, int]:
    """Threads of each actor of the roles.

    A role that names threads has these, one that names CPUs as many as its CPUs, one with devices a single thread. The
    other roles of a phase share the cores that are left, each actor alike and at least one.
    """
    updating = [role for name, role in roles.items() if name not in FROZEN]
    evaluating = [role for name, role in roles.items() if name != "reward"]
    threads: dict[str, int] = {}
    for name, role in roles.items():
        if name == "reward":
            share = _share([role], cores - engines.score)
        elif name == "reference":
            share = _share(evaluating, cores)
        else:
            share = _share(updating, cores - engines.update)
        threads[name] = named_threads(role) or share
    return threads


def named_threads(role: RoleConfig) -> int:
    """Threads of an actor as the job names them, or one beside a device; 0 where it shares the cores."""
    if role.threads is not None:
        return role.threads
    if role.cpus is not None:
        return max(1, int(role.cpus))
    return 1 if role.gpus else 0


def _share(phase: Sequence[RoleConfig], cores: int) -> int:
    """Threads of each actor in a phase that names none."""
    named = sum(role.actors * named_threads(role) for role in phase)
    sharing = sum(role.actors for role in phase if not named_threads(role))
    return min(MOST, max(1, (cores - named) // max(1, sharing)))
