"""Which path weights take: decided by where the trainer and the engines stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rayalign.errors import InputError
from rayalign.weights.paths.base import PathName


@dataclass(frozen=True, slots=True)
class Site:
    """Where one actor stands."""

    node: str
    """address of its machine"""
    devices: tuple[str, ...]
    """UUIDs of the GPUs that it uses; empty on a CPU"""

    @property
    def places(self) -> set[tuple[str, str]]:
        """Its devices, told apart over machines."""
        return {(self.node, device) for device in self.devices}


def choose_path(
    setting: PathName | Literal["auto"],
    trainer: Sequence[Site],
    engines: Sequence[Site],
    *,
    vllm: bool,
) -> tuple[PathName, str]:
    """The path, and why.

    Args:
        setting: as the job names it in `rollout.weights`. Only `nccl` and `ipc` depend on the places.
        trainer: the ranks of the policy.
        engines: the engines of the pool.
        vllm: whether the engines are vLLM's, which alone receive from device to device.

    Raises:
        InputError: the job names a path that these places do not allow.
    """
    if setting != "auto" and setting not in ("nccl", "ipc"):
        return setting, "named by the job"
    device_path, reason = _device_path(trainer, engines, vllm)
    if setting == "auto":
        return device_path or "store", reason
    if setting != device_path:
        raise InputError(
            f"rollout.weights is {setting}, but {reason}; write rollout.weights: auto, or place the roles accordingly"
        )
    return setting, "named by the job"


def _device_path(
    trainer: Sequence[Site], engines: Sequence[Site], vllm: bool
) -> tuple[Literal["nccl", "ipc"] | None, str]:
    """The path from device to device, None where there is none; and why."""
    if not vllm:
        return None, "the engines are not vLLM's"
    if not all(site.devices for site in (*trainer, *engines)):
        return None, "trainer and engines are not all on CUDA devices"
    trainer_places = set[tuple[str, str]]()
    for site in trainer:
        trainer_places |= site.places
    engine_places = set[tuple[str, str]]()
    for site in engines:
        engine_places |= site.places
    if engine_places <= trainer_places:
        return "ipc", "every engine shares its devices with the trainer"
    if engine_places & trainer_places:
        return None, "only some engines share their devices with the trainer"
    return "nccl", "trainer and engines are on devices of their own"
