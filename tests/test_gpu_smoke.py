"""The arithmetic of the benchmark on GPUs."""

from __future__ import annotations

import pytest

from benchmarks.gpu_smoke import Layout, utilisation


def test_the_utilisation_is_the_share_of_all_devices_peak() -> None:
    # 6 FLOPs for each of 1e9 parameters and 1e5 tokens a second are 600 TFLOP/s, of 2 * 1000
    assert utilisation(10**9, 1e5, 1000.0, 2) == pytest.approx(0.3)


def test_two_ranks_have_a_device_each_and_three_devices_leave_one_to_the_engine() -> None:
    assert [Layout(count).ranks for count in range(4)] == [1, 1, 2, 2]
    assert [Layout(count).paths[-1] for count in range(4)] == ["store", "ipc", "ipc", "nccl"]
    assert Layout(3).rollout.gpus == 1.0 and Layout(2).rollout.gpus == 0.4
