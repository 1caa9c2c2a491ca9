"""The machines of a forecast in figures: those of a cluster file, or this one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from rayalign.config import ClusterFile, DeviceConfig, NodeConfig
from rayalign.errors import InputError
from rayalign.forecast.devices import device_named, device_of_driver
from rayalign.pipeline.machine import Machine, this_machine

LOCAL = "local"
"""in the place of a cluster file: this machine"""
GIB = 1 << 30
GPU_DRIVER = Path("/proc/driver/nvidia/gpus")
LOCAL_LINK = 25.0
LOCAL_NETWORK = 10.0


@dataclass(frozen=True, slots=True)
class Hardware:
    """All machines together; where they differ, their slowest device stands for all."""

    name: str
    """what the machines are, for people"""
    total: Machine
    """the sums over all machines"""
    processor: str
    """name of the CPU; empty: not known"""
    device: DeviceConfig | None
    machine_devices: int
    """of the machine that has most"""
    link: float
    """between two devices of one machine [GB/s]"""
    network: float
    """between two machines [GB/s]"""
    price: float | None
    """of an hour of all machines"""
    currency: str

    @property
    def calibrated_by(self) -> str:
        """The name under which measurements of these machines are kept."""
        if self.device is not None:
            return self.device.name
        return f"{self.processor or 'unknown CPU'}, {self.total.cpus:g} cores"


def this_hardware() -> Hardware:
    """The machine that this process runs on.

    Raises:
        InputError: its device is not in the catalogue.
    """
    machine = this_machine()
    device = _local_device() if machine.gpus else None
    name = f"this machine, {machine.cpus:g} cores"
    if device is not None:
        name += f" and {machine.gpus} x {device.name}"
    return Hardware(name, machine, _local_processor(), device, machine.gpus, LOCAL_LINK, LOCAL_NETWORK / 8, None, "USD")


def sizes_of(file: ClusterFile, where: str) -> Iterator[Hardware]:
    """The cluster in each size that the file allows, the smallest first.

    Raises:
        InputError: a device is not in the catalogue.
    """
    ranges = []
    for node in file.nodes.values():
        most = node.max_count or node.count
        ranges.append(range(node.count, most + 1))
    sizes = sorted(product(*ranges), key=sum)
    for counts in sizes:
        yield _hardware(file, dict(zip(file.nodes, counts, strict=True)), where)


def _hardware(file: ClusterFile, counts: Mapping[str, int], where: str) -> Hardware:
    nodes = [(file.nodes[name], count) for name, count in counts.items()]
    devices = _devices(file, where)
    slowest = min(devices, key=lambda device: device.bf16) if devices else None
    if slowest is not None:
        smallest = min(device.memory for device in devices)
        slowest = slowest.model_copy(update={"memory": smallest})
    cpus = sum(node.cpus * count for node, count in nodes)
    gpus = sum(node.devices * count for node, count in nodes)
    memory = int(sum(node.memory * count for node, count in nodes) * GIB)
    total = Machine(cpus, gpus, memory, shared_memory=memory // 2)
    processors = {node.processor or "" for node, _ in nodes}
    return Hardware(
        name=" + ".join(_words(name, node, counts[name]) for name, node in file.nodes.items()),
        total=total,
        processor=processors.pop() if len(processors) == 1 else "",
        device=slowest,
        machine_devices=max(node.devices for node, _ in nodes),
        link=min(node.link for node, _ in nodes),
        network=file.network / 8,
        price=_price(nodes),
        currency=file.currency,
    )


def _devices(file: ClusterFile, where: str) -> list[DeviceConfig]:
    devices = []
    for name, node in file.nodes.items():
        if not node.devices or node.device is None:
            continue
        own = file.own_devices.get(node.device)
        if own is not None:
            devices.append(own.model_copy(update={"name": node.device}))
        else:
            devices.append(device_named(node.device, f"{where}: nodes.{name}"))
    return devices


def _price(nodes: list[tuple[NodeConfig, int]]) -> float | None:
    """Of an hour of all machines; None where one has no price."""
    price = 0.0
    for node, count in nodes:
        if node.price is None:
            return None
        price += node.price * count
    return price


def _words(name: str, node: NodeConfig, count: int) -> str:
    if not node.devices or node.device is None:
        return f"{count} x {name} ({node.cpus:g} cores)"
    return f"{count} x {name} ({node.devices} x {node.device})"


def _local_processor() -> str:
    information = Path("/proc/cpuinfo")
    if not information.is_file():
        return ""
    for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return ""


def _local_device() -> DeviceConfig:
    models = []
    for information in GPU_DRIVER.glob("*/information"):
        for line in information.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model":
                models.append(value.strip())
    device = device_of_driver(models[0]) if models else None
    if device is None:
        unknown = models[0] if models else "the device of this machine"
        raise InputError(f"{unknown} is not in the catalogue of devices; describe this machine in a cluster file")
    return device
