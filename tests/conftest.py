"""What every test may rely on: a quiet, offline environment, the folder of real data, one Ray session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.update(
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",
    RAY_USAGE_STATS_ENABLED="0",
    TOKENIZERS_PARALLELISM="false",
)


ALONE = ("autoscaling", "faults")
"""markers of tiers that run alone, where somebody asks for them (`-m autoscaling`)"""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tiers that nobody has asked for."""
    left_out = [marker for marker in ALONE if marker not in config.option.markexpr]
    alone = [item for item in items if any(item.get_closest_marker(marker) for marker in left_out)]
    if alone:
        config.hook.pytest_deselected(items=alone)
        items[:] = [item for item in items if item not in alone]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU on machines without one."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of public data samples that RAYALIGN_TEST_DATA names."""
    folder = os.environ.get("RAYALIGN_TEST_DATA")
    if not folder:
        pytest.skip("RAYALIGN_TEST_DATA names no folder of data samples")
    return Path(folder)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray session of four logical CPUs and two logical devices, shared by all tests that ask for it."""
    from rayalign.cluster.session import Session
    from rayalign.config import ClusterConfig, LogicalDevices

    devices = LogicalDevices(count=2, bytes=1 << 30)
    with Session(ClusterConfig(cpus=4, object_store=256 << 20, logical_devices=devices)):
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The smallest preset with random weights."""
    from rayalign.data.paddock.tokenizer import build_tokenizer
    from rayalign.models.load import make_preset

    folder = tmp_path_factory.mktemp("preset")
    make_preset("nano", build_tokenizer(), 0, folder)
    return str(folder)
