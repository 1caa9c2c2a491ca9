"""Engines that write answers, and the loop that drives one."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from rayalign.errors import InputError

if TYPE_CHECKING:
    from rayalign.config import RolloutConfig
    from rayalign.rollout.base import Engine

EngineName = Literal["vllm", "local"]


def choose(config: RolloutConfig) -> tuple[EngineName, str]:
    """Which engine a job gets, and why; InputError where it names vllm, which is not installed."""
    installed = find_spec("vllm") is not None
    if config.engine == "local" or (config.engine == "vllm" and installed):
        return config.engine, "named by the job"
    if config.engine == "vllm":
        raise InputError("rollout.engine is vllm, which is not installed; install it, or write engine: local")
    if installed:
        return "vllm", "installed"
    return "local", "vllm is not installed"


def build(name: EngineName, model_path: str, config: RolloutConfig) -> Engine:
    """The engine, with the weights of the model folder as version 0."""
    if name == "vllm":
        from rayalign.rollout.vllm import VllmEngine

        return VllmEngine(model_path, config)
    from rayalign.rollout.local import LocalEngine

    return LocalEngine(model_path, config)
