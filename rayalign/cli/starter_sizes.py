"""Sizes of a starter job that fit a machine: engines, learner ranks, and how a model is trained within memory."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayalign.models.catalogue import ModelShape
    from rayalign.pipeline.machine import Machine

Settings = dict[str, Any]

_CORES_OF_AN_ENGINE = 4
_MOST_ENGINES = 4
"""on a CPU"""
_USABLE = 0.9
"""share of a memory that a job may plan with; estimates are rough"""
_LOADED = 0.6
"""share of a device that an engine's weights may take, so that its cache has room"""
_THRIFTY_TOKENS = 2048
"""padded tokens per forward pass where memory is short"""
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a starter job says about its machine; each setting comes with its reason."""

    machine: str
    """in words"""
    rollout: dict[str, tuple[Any, str]]
    """setting -> value, reason"""
    learner: Settings
    """of the trained stages, beside their batch and learning rate"""
    ranks: int
    gpus: int
    """of each rank"""
    training: str
    """why ranks and learner are set so"""


def preset_for(machine: Machine) -> str:
    """The model for a first look, which such a machine trains in minutes."""
    if machine.gpus:
        return "preset:small"
    return "preset:tiny" if machine.cpus >= 8 else "preset:nano"


def device_memory() -> int | None:
    """The memory of the smallest GPU as its driver reports it [bytes]; None: unknown."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        report = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return min(int(line) for line in report.stdout.split("\n") if line) << 20
    except (subprocess.SubprocessError, OSError, ValueError):
        return None


def fit(machine: Machine, device_bytes: int, shape: ModelShape | None, *, is_preset: bool, minibatch: int) -> Sizes:
    """Sizes for a model; one whose shape is unknown gets the thriftiest.

    Args:
        device_bytes: memory of one GPU.
    """
    most_ranks = 1 if is_preset else min(machine.gpus, minibatch)
    ranks, gpus = max(1, most_ranks), min(1, machine.gpus)
    learner, training = _learner(machine, device_bytes, shape, ranks, in_half=gpus > 0 and not is_preset)
    rollout = _engines_on_gpus(machine, device_bytes, shape, is_preset) if gpus else _engines_on_cpu(machine, shape)
    if learner.get("precision") == "bf16":
        rollout["dtype"] = ("bfloat16", "as the learner's precision")
    reasons = f"{_reason_of_ranks(machine, ranks)}; {training}"
    return Sizes(_in_words(machine, device_bytes), rollout, learner, ranks, gpus, reasons)


def _reason_of_ranks(machine: Machine, ranks: int) -> str:
    if not machine.gpus:
        return "one rank, which uses all cores"
    if ranks == 1 < machine.gpus:
        return "one rank on one GPU, because the model is small"
    return "one rank on the GPU" if ranks == 1 else f"{ranks} ranks, one on each GPU"


def _learner(
    machine: Machine, device_bytes: int, shape: ModelShape | None, ranks: int, *, in_half: bool
) -> tuple[Settings, str]:
    """The first way of training that fits into memory, and why."""
    from rayalign.config import LearnerConfig
    from rayalign.pipeline.plan import size
    from rayalign.pipeline.sizes import learner_parts

    where = f"each of {ranks} GPUs" if machine.gpus > 0 else "main memory"
    if ranks == 1 and machine.gpus:
        where = "a GPU"
    room = device_bytes if machine.gpus else machine.memory
    settings: Settings = {}
    way = ""
    for settings, way in _ways(ranks, in_half):
        if shape is None:
            continue
        need = sum(learner_parts(shape, LearnerConfig.model_validate(settings), ranks).values())
        if not machine.gpus:
            need += _processes() + _engine_bytes(shape)  # an engine may start while the last stage trains
        if need <= _USABLE * room:
            return settings, f"{way}: about {size(need)} of the {size(room)} of {where}"
    if shape is None:
        return settings, f"{way}, because the model's size is unknown here"
    return settings, f"{way}, but it needs about {size(need)} and {where} has {size(room)}: take a smaller model"


def _ways(ranks: int, in_half: bool) -> Iterator[tuple[Settings, str]]:
    """Ways of training, each with less memory than the one before."""
    full: Settings = {"precision": "bf16"} if in_half else {}
    thrifty = {**full, "micro_tokens": _THRIFTY_TOKENS, "gradient_checkpointing": True}
    adapter = {**thrifty, "lora": {"rank": 16}}
    divided = {"zero_stage": 3}
    yield full, "all weights are trained"
    yield thrifty, "all weights are trained, in small micro-batches with activations computed twice"
    if ranks > 1:
        yield {**thrifty, **divided}, "all weights are trained, divided over the ranks"
    yield adapter, "a LoRA adapter is trained beside frozen weights"
    if ranks > 1:
        yield {**adapter, **divided}, "a LoRA adapter is trained, the frozen weights divided over the ranks"


def _engines_on_cpu(machine: Machine, shape: ModelShape | None) -> dict[str, tuple[Any, str]]:
    by_cores = max(1, min(_MOST_ENGINES, int(machine.cpus) // _CORES_OF_AN_ENGINE))
    reason = f"one for each {_CORES_OF_AN_ENGINE} cores, at most {_MOST_ENGINES}; here {machine.cpus:g} cores"
    if shape is None:
        return {"engines": (1, "more, if cores and memory allow: the model's size is unknown here")}
    room = _USABLE * machine.memory - _processes()
    by_memory = max(1, int(room // _engine_bytes(shape)))
    if by_memory < by_cores:
        return {"engines": (by_memory, "as many as fit into main memory, each with the whole model")}
    return {"engines": (by_cores, reason)}


def _engines_on_gpus(
    machine: Machine, device_bytes: int, shape: ModelShape | None, is_preset: bool
) -> dict[str, tuple[Any, str]]:
    if is_preset or shape is None:
        reason = "the model is small" if is_preset else "more, if GPUs are free: the model's size is unknown here"
        return {"engines": (1, reason), "gpus": (1, f"of {machine.gpus}")}
    weights, devices = 2 * shape.parameters, 1
    while weights / devices > _LOADED * device_bytes and 2 * devices <= machine.gpus:
        devices *= 2
    cache = max(1, int((_USABLE * device_bytes - weights / devices) / 2 / _GIB)) * _GIB
    rollout: dict[str, tuple[Any, str]] = {
        "engines": (machine.gpus // devices, "they start after the training, on all GPUs"),
        "gpus": (devices, "of each engine"),
    }
    if devices > 1:
        rollout["tensor_parallel"] = (devices, "GPUs that share the weights, which are too large for one")
    rollout["cache_bytes"] = (cache, "half of what the weights leave of a GPU")
    return rollout


def _engine_bytes(shape: ModelShape) -> int:
    from rayalign.config import RolloutConfig
    from rayalign.pipeline.process_memory import VLLM_ENGINE

    return 4 * shape.parameters + RolloutConfig().cache_bytes + VLLM_ENGINE


def _processes() -> int:
    """Main memory of the run's processes without their models [bytes]."""
    from rayalign.pipeline.process_memory import DRIVER, FORKS, LONE_WORKER, RAY

    return DRIVER + RAY + FORKS + LONE_WORKER


def _in_words(machine: Machine, device_bytes: int) -> str:
    from rayalign.pipeline.plan import size

    gpus = "no GPU"
    if machine.gpus:
        gpus = f"{machine.gpus} {'GPU' if machine.gpus == 1 else 'GPUs'} of {size(device_bytes)}"
    return f"{machine.cpus:g} cores, {size(machine.memory)} of memory, {gpus}"
