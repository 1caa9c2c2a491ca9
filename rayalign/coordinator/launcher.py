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
    needed = {"CPU": host.actors * (host.cpus or 0.0), "GPU": host.actors * host.gpus}
    if any(all(machine.get(kind, 0.0) >= amount for kind, amount in needed.items()) for machine in machines):
        return "actors", "one machine has room for all ranks"
    return "ray_train", "no machine alone has room for all ranks"
