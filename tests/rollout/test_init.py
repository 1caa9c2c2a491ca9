from __future__ import annotations

from importlib.util import find_spec

import pytest

from rayalign.config.sections import RolloutConfig
from rayalign.errors import InputError
from rayalign.rollout import choose
from rayalign.rollout.vllm import VllmEngine, environment


def test_the_job_may_name_its_engine() -> None:
    assert choose(RolloutConfig(engine="local")) == ("local", "named by the job")


def test_auto_takes_vllm_where_it_is_installed() -> None:
    name, _ = choose(RolloutConfig())
    assert name == ("vllm" if find_spec("vllm") else "local")


def test_cpu_settings_are_not_forced_on_a_gpu() -> None:
    assert environment(RolloutConfig(threads=2))["OMP_NUM_THREADS"] == "2"
    on_gpu = environment(RolloutConfig(gpus=1))
    assert on_gpu["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert "TORCH_COMPILE_DISABLE" not in on_gpu and "OMP_NUM_THREADS" not in on_gpu


def test_an_unprepared_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    with pytest.raises(InputError, match="environment"):
        VllmEngine("nowhere", RolloutConfig())
