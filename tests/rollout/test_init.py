from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import huggingface_hub.constants
import pytest

from rayalign.config.sections import RolloutConfig
from rayalign.errors import InputError
from rayalign.rollout import LOCAL_PARAMETERS, build, choose, vllm_runs_on
from rayalign.rollout.vllm import COMPUTE_BYTES, VllmEngine, environment, memory_share
from tests.weights.test_files import cached_snapshot


def test_the_job_may_name_its_engine() -> None:
    assert choose(RolloutConfig(engine="local"), "cpu") == ("local", "named by the job")
    assert choose(RolloutConfig(engine="vllm"), "cpu") == ("vllm", "named by the job")


@pytest.mark.parametrize(
    ("vllm", "gpus", "name"),
    [("cpu", 0, "vllm"), ("cpu", 1, "vllm"), ("gpu", 1, "vllm"), ("gpu", 0, "local"), (None, 1, "local")],
)
def test_auto_takes_vllm_where_it_runs(vllm: Literal["cpu", "gpu"] | None, gpus: int, name: str) -> None:
    assert choose(RolloutConfig(gpus=gpus), vllm)[0] == name


@pytest.mark.parametrize(
    ("vllm", "gpus", "parameters", "name"),
    [
        ("cpu", 0, LOCAL_PARAMETERS, "local"),
        ("cpu", 0, LOCAL_PARAMETERS + 1, "vllm"),
        ("cpu", 0, None, "vllm"),
        ("gpu", 1, 1000, "vllm"),
    ],
)
def test_small_models_are_written_by_the_local_engine_on_a_cpu(
    vllm: Literal["cpu", "gpu"], gpus: int, parameters: int | None, name: str
) -> None:
    assert choose(RolloutConfig(gpus=gpus), vllm, parameters)[0] == name
    assert choose(RolloutConfig(engine="vllm", gpus=gpus), vllm, parameters)[0] == "vllm"
    assert choose(RolloutConfig(adapter="separate", gpus=gpus), vllm, parameters)[0] == "vllm"


def test_vllm_by_name_must_run_here() -> None:
    with pytest.raises(InputError, match="needs a GPU, and rollout.gpus is 0"):
        choose(RolloutConfig(engine="vllm"), "gpu")
    with pytest.raises(InputError, match="not installed"):
        choose(RolloutConfig(engine="vllm"), None)


def test_the_installed_vllm_is_found() -> None:
    assert (vllm_runs_on() is None) == (find_spec("vllm") is None)


def test_cpu_settings_are_not_forced_on_a_gpu() -> None:
    assert environment(RolloutConfig(threads=2))["OMP_NUM_THREADS"] == "2"
    on_gpu = environment(RolloutConfig(gpus=1))
    assert on_gpu["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert "TORCH_COMPILE_DISABLE" not in on_gpu and "OMP_NUM_THREADS" not in on_gpu


def test_an_unprepared_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    with pytest.raises(InputError, match="environment"):
        VllmEngine("nowhere", RolloutConfig())


def test_an_engine_on_a_gpu_asks_for_what_it_needs_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(1 << 20))
    config = RolloutConfig(gpus=2, tensor_parallel=2, cache_bytes=2 << 30)
    needed = (1 << 19) + (2 << 30) + COMPUTE_BYTES
    assert memory_share(str(tmp_path), config, 80 << 30) == pytest.approx(needed / (80 << 30))
    assert memory_share(str(tmp_path), config, 1 << 30) == 0.92


def test_an_engine_gets_the_folder_of_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM and the list of its weights read files; only transformers would find the name by itself."""
    snapshot = cached_snapshot(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("rayalign.rollout.vllm.VllmEngine", lambda folder, config, adapter: folder)
    assert build("vllm", "maker/model", RolloutConfig()) == str(snapshot)
