"""A cluster file: the machines that a job is planned for, their devices, what joins them, and what an hour costs."""

from __future__ import annotations

from pathlib import Path

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from rayalign.config.explain import explain
from rayalign.config.section import Section
from rayalign.config.tree import read_tree
from rayalign.errors import InputError


class DeviceConfig(Section):
    """A device by its figures, where the catalogue does not have it."""

    name: str = ""
    """calibration records are looked up by it; in a cluster file it is the key"""
    memory: PositiveFloat
    """usable [GiB]"""
    bf16: PositiveFloat
    """peak of dense matrices in bf16 [TFLOP/s]"""
    fp32: PositiveFloat
    """peak of dense matrices in fp32 [TFLOP/s]"""
    bandwidth: PositiveFloat
    """of its memory [GB/s]"""


class NodeConfig(Section):
    """Machines of one kind."""

    count: PositiveInt = 1
    max_count: PositiveInt | None = None
    """as many as there may be; the plan then compares every number from `count` to this"""
    cpus: PositiveFloat
    processor: str | None = None
    """name of the CPU, by which calibration records are looked up"""
    memory: PositiveFloat
    """main memory of one machine [GiB]"""
    devices: NonNegativeInt = 0
    """of one machine"""
    device: str | None = None
    """a name of `own_devices` or of the catalogue, such as H100"""
    link: PositiveFloat = 25.0
    """between two devices of one machine [GB/s]; 25: PCIe 4 with 16 lanes"""
    price: NonNegativeFloat | None = None
    """of one machine and hour; None: the plan names hours but no cost"""

    @model_validator(mode="after")
    def _is_complete(self) -> NodeConfig:
        if self.devices and self.device is None:
            raise ValueError(f"{self.devices} devices without a device; add device: H100, or another name")
        if self.max_count is not None and self.max_count < self.count:
            raise ValueError(f"max_count {self.max_count} is below count {self.count}")
        return self


class ClusterFile(Section):
    """All machines that a job may use."""

    nodes: dict[str, NodeConfig] = Field(min_length=1)
    """a name of your own -> machines of one kind"""
    network: PositiveFloat = 10.0
    """between two machines [Gbit/s]"""
    currency: str = "USD"
    own_devices: dict[str, DeviceConfig] = {}
    """name -> figures, of devices that the catalogue does not have"""


def load_cluster(path: Path) -> ClusterFile:
    """Read a cluster file.

    Raises:
        InputError: there is none, or a line for each value that is missing or wrong.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such cluster file; start from one of clusters/plan/, or write local")
    tree = read_tree(path)
    if tree.problems:
        raise InputError("\n".join(tree.problems))
    try:
        return ClusterFile.model_validate(tree.values)
    except ValidationError as error:
        raise InputError(explain(error, ClusterFile, str(path), tree.origins)) from error
