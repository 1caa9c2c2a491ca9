from __future__ import annotations

import pytest

from rayalign.config import ClusterFile
from rayalign.errors import InputError
from rayalign.forecast.devices import DEVICES, device_of_driver
from rayalign.forecast.hardware import sizes_of, this_hardware
from rayalign.pipeline.machine import this_machine

HEAD = {"cpus": 8, "memory": 32, "price": 1.0}
GPU = {"cpus": 64, "memory": 512, "devices": 8, "device": "H100", "price": 50.0}


def test_a_cluster_is_the_sum_of_its_machines() -> None:
    file = ClusterFile.model_validate({"nodes": {"head": HEAD, "gpu": GPU | {"count": 2}}, "network": 80})
    (hardware,) = sizes_of(file, "cluster.yaml")
    assert hardware.name == "1 x head (8 cores) + 2 x gpu (8 x H100)"
    assert (hardware.total.cpus, hardware.total.gpus, hardware.machine_devices) == (136, 16, 8)
    assert hardware.total.memory == (32 + 2 * 512) << 30
    assert (hardware.price, hardware.network, hardware.calibrated_by) == (101.0, 10.0, "H100")


def test_a_range_of_machines_gives_every_size() -> None:
    file = ClusterFile.model_validate({"nodes": {"head": HEAD, "gpu": GPU | {"count": 1, "max_count": 3}}})
    assert [hardware.total.gpus for hardware in sizes_of(file, "cluster.yaml")] == [8, 16, 24]


def test_the_slowest_and_the_smallest_device_count_for_all() -> None:
    own = {"mine": {"memory": 20, "bf16": 500, "fp32": 50, "bandwidth": 1000}}
    nodes = {"a": GPU | {"device": "A100"}, "b": GPU | {"device": "mine"}}
    file = ClusterFile.model_validate({"nodes": nodes, "own_devices": own})
    (hardware,) = sizes_of(file, "cluster.yaml")
    assert hardware.device is not None
    assert (hardware.device.name, hardware.device.memory, hardware.device.bf16) == ("A100", 20, 312)


def test_one_machine_without_a_price_leaves_the_cost_open() -> None:
    file = ClusterFile.model_validate({"nodes": {"head": HEAD | {"price": None}, "gpu": GPU}})
    (hardware,) = sizes_of(file, "cluster.yaml")
    assert hardware.price is None


def test_an_unknown_device_is_refused_with_the_nearest_one() -> None:
    file = ClusterFile.model_validate({"nodes": {"gpu": GPU | {"device": "H10"}}})
    with pytest.raises(
        InputError, match=r"cluster.yaml: nodes.gpu: device H10 is not in the catalogue; did you mean H"
    ):
        list(sizes_of(file, "cluster.yaml"))


def test_this_machine_is_described_by_itself() -> None:
    hardware = this_hardware()
    assert hardware.total == this_machine()
    if not hardware.total.gpus:
        assert hardware.calibrated_by.endswith(f"{hardware.total.cpus:g} cores")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIE"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("Something else", None),
    ],
)
def test_devices_are_recognised_by_the_drivers_name(model: str, name: str | None) -> None:
    device = device_of_driver(model)
    assert (device.name if device else None) == name


def test_the_catalogue_is_plausible() -> None:
    for name, device in DEVICES.items():
        assert device.name == name
        assert device.fp32 < device.bf16
        assert 10 < device.memory < 300
