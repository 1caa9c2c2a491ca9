"""Which launcher runs the ranks of an offline stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from rayalign.config import RoleConfig

Launcher = Literal["ray_train", "actors"]


def choose_launcher(
    launcher: Literal["auto", "ray_train", "actors"], host: RoleConfig, machines: Sequence[Mapping[str, float]]
) -> tuple[Launcher, str]:
    """The launcher and the reason for it.

    Args:
        machines: the resources of each machine, by Ray's names.
    """
    if launcher != "auto":
        return launcher, "the job names it"
    cpus, gpus = host.actors * (host.cpus or 0.0), host.actors * host.gpus
    if any(machine.get("CPU", 0.0) >= cpus and machine.get("GPU", 0.0) >= gpus for machine in machines):
        return "actors", "one machine has room for all ranks"
    return "ray_train", "no machine alone has room for all ranks"
