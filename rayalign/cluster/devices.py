"""The devices that engines and roles share: one placement group holds them, whole, for as long as anybody uses them.

    placement group   {GPU: k} {GPU: k} ...   reserved by `reserve_devices`, which learns what each device is
    slots             engine 0 -> devices 0..k-1, policy rank 0 -> device 0, critic rank 0 -> device 0, ...

Actors in slots claim no device of Ray, only CPUs on the same machine: their process is shown the slot's devices, and
`DeviceTurns` decides who has the memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
from ray.exceptions import GetTimeoutError
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rayalign.actors.hosted import LOGICAL_VARIABLE, own_devices
from rayalign.actors.place import LOGICAL
from rayalign.cluster.placement import Slot, reserve
from rayalign.errors import DeadlineError


@dataclass(frozen=True, slots=True)
class Device:
    """One shared device."""

    name: str
    """UUID of a GPU, or name of a logical device"""
    node: str
    """Ray's id of its machine"""
    index: str
    """what CUDA calls it on that machine"""


class SharedDevices:
    """The reserved devices, counted from 0."""

    def __init__(self, group: PlacementGroup, devices: Sequence[Device]) -> None:
        self.devices = tuple(devices)
        self._group = group

    def slot(self, numbers: Sequence[int]) -> Slot:
        """The slot of an actor that uses these devices, which stand in one machine."""
        used = [self.devices[number] for number in numbers]
        names = tuple(device.name for device in used)
        return Slot(used[0].node, names, _environment(used))

    def release(self) -> None:
        """Give the devices back to Ray; their actors must have ended."""
        remove_placement_group(self._group)


def reserve_devices(count: int, *, together: int, logical: bool, timeout: float) -> SharedDevices:
    """Reserve whole devices.

    Args:
        together: so many neighbours stand in one machine, for an engine that spans them.
        logical: they have names, and nothing computes on them.

    Raises:
        InputError: the cluster has fewer devices.
        DeadlineError: they are in use.
    """
    sizes = [min(together, count - start) for start in range(0, count, together)]
    group = reserve([{"GPU": float(size)} for size in sizes], timeout)
    devices: list[Device] = []
    for node, indices, names in _survey(group, sizes, logical, timeout):
        for position, index in enumerate(indices):
            name = f"{LOGICAL}{len(devices)}" if logical else names[position]
            devices.append(Device(name, node, index))
    return SharedDevices(group, devices)


def _survey(
    group: PlacementGroup, sizes: Sequence[int], logical: bool, timeout: float
) -> list[tuple[str, list[str], tuple[str, ...]]]:
    """Machine, indices and names of the devices of each bundle, as a process there sees them."""
    calls = []
    for index, size in enumerate(sizes):
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
        look = ray.remote(_look).options(num_cpus=0, num_gpus=size, scheduling_strategy=strategy)
        calls.append(look.remote(logical))
    try:
        answers: list[tuple[str, list[str], tuple[str, ...]]] = ray.get(calls, timeout=timeout)
    except GetTimeoutError as error:
        remove_placement_group(group)
        raise DeadlineError(
            f"the shared devices were not looked at within {timeout:.0f} s; raise cluster.start_timeout"
        ) from error
    return answers


def _look(logical: bool) -> tuple[str, list[str], tuple[str, ...]]:
    indices = [str(index) for index in ray.get_gpu_ids()]
    return ray.get_runtime_context().get_node_id(), indices, () if logical else own_devices()


def _environment(devices: Sequence[Device]) -> Mapping[str, str]:
    if devices[0].name.startswith(LOGICAL):
        names = ",".join(device.name for device in devices)
        return {LOGICAL_VARIABLE: names, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    return {"CUDA_VISIBLE_DEVICES": ",".join(device.index for device in devices), "DS_ACCELERATOR": "cuda"}
