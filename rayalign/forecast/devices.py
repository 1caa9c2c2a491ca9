"""Devices by name: peaks of dense matrices, memory and its bandwidth, from NVIDIA's public data sheets.

Peaks are those without sparsity, fp32 those of plain fp32 (the default of PyTorch's matrix products). Memory is what a
process can use, a little below the name's.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rayalign.config import DeviceConfig, nearest
from rayalign.errors import InputError


def _device(name: str, memory: float, bf16: float, fp32: float, bandwidth: float) -> DeviceConfig:
    return DeviceConfig(name=name, memory=memory, bf16=bf16, fp32=fp32, bandwidth=bandwidth)


_ALL = (
    _device("L4", 22, 121, 30.3, 300),
    _device("A10", 22, 125, 31.2, 600),
    _device("L40S", 44, 362, 91.6, 864),
    _device("RTX4090", 23, 165, 82.6, 1008),
    _device("A100-40GB", 39, 312, 19.5, 1555),
    _device("A100", 79, 312, 19.5, 2039),
    _device("H20", 95, 148, 44, 4000),
    _device("H100-PCIE", 79, 756, 51, 2000),
    _device("H100", 79, 989, 67, 3350),
    _device("H200", 140, 989, 67, 4800),
    _device("B200", 179, 2250, 75, 8000),
)
DEVICES: Mapping[str, DeviceConfig] = MappingProxyType({device.name: device for device in _ALL})
"""A100, H100, H200 and B200 are the SXM boards, A100 the one of 80 GB"""
SOURCE = "NVIDIA's data sheets"


def device_named(name: str, where: str) -> DeviceConfig:
    """A device of the catalogue.

    Raises:
        InputError: it has none of that name.
    """
    if name in DEVICES:
        return DEVICES[name]
    raise InputError(
        f"{where}: device {name} is not in the catalogue; {nearest(name, list(DEVICES))}, or give its figures: "
        f"own_devices: {{{name}: {{memory: GiB, bf16: TFLOP/s, fp32: TFLOP/s, bandwidth: GB/s}}}}"
    )


def device_of_driver(model: str) -> DeviceConfig | None:
    """The device that the driver names, such as `NVIDIA H100 80GB HBM3`; None where the catalogue does not have it."""
    words = model.replace("NVIDIA", "").replace("GeForce", "").replace("RTX ", "RTX").replace("-", " ").split()
    if not words:
        return None
    variants = [f"{words[0]}-{word}" for word in words[1:]]
    for name in (*variants, words[0]):
        if name.upper() in DEVICES:
            return DEVICES[name.upper()]
    return None
