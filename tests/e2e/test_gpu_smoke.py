"""The script for GPUs, rehearsed on a CPU: all its steps but those that need a device."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
]
STEPS = ["update_zero3", "transfer_store", "generate", "device_turns", "transfer_adapter"]


def test_every_step_passes() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_smoke", "--rehearse"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    passed = [line.partition(":")[0] for line in done.stdout.splitlines() if ": passed" in line]
    assert passed == STEPS
