from __future__ import annotations

from pathlib import Path

import pytest

from rayalign.config import load_cluster
from rayalign.errors import InputError
from rayalign.forecast.hardware import sizes_of

SHIPPED = sorted((Path(__file__).parents[2] / "clusters" / "plan").glob("*.yaml"))


def written(folder: Path, text: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_are_read_and_their_devices_known(path: Path) -> None:
    hardware = list(sizes_of(load_cluster(path), str(path)))
    assert hardware and hardware[0].device is not None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.yaml: there is no such cluster file; start from one of clusters/plan/"):
        load_cluster(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: {gpu: {memory: 100}}", "cluster.yaml:1: nodes.gpu.cpus is missing"),
        ("network: 10", "cluster.yaml: nodes is missing"),
        ("nodes: {gpu: {cpus: 8, memory: 9, devices: 2}}", "2 devices without a device; add device: H100"),
        ("nodes: {gpu: {cpus: 8, memory: 9, count: 3, max_count: 2}}", "max_count 2 is below count 3"),
        (
            "nodes: {gpu: {cpus: 8, memory: 9, pricee: 3}}",
            "nodes.gpu.pricee is not known; did you mean nodes.gpu.price?",
        ),
        ("nodes: {gpu: {cpus: 0, memory: 9}}", "nodes.gpu.cpus is 0; expected a number greater than 0"),
        (
            "nodes: {gpu: {cpus: 8, memory: 9}}\nown_devices: {x: {memory: 3, bf16: 1, fp32: 1}}",
            "cluster.yaml:2: own_devices.x.bandwidth is missing",
        ),
    ],
)
def test_wrong_values_are_named_with_their_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load_cluster(written(tmp_path, text))
    assert message in str(error.value)
