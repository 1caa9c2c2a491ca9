"""The weights of one version on their way from the trainer to the engines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from rayalign.config import LoraConfig
from rayalign.weights.buckets import TensorSpec

Kind = Literal["full", "adapter"]
Form = Literal["merged", "base", "adapter"]
"""what a trainer sends: its weights with the adapter added, those without it, or the adapter alone"""


@dataclass(frozen=True, slots=True)
class WeightSet:
    """All tensors of one version: a whole model, or an adapter alone."""

    kind: Kind
    version: int
    tensors: Iterable[tuple[str, Tensor]]
    """by their Hugging Face names; may be read once"""
    specs: tuple[TensorSpec, ...] = ()
    """what `tensors` will yield, where the sender knows it before it gathers"""
    adapter: LoraConfig | None = None
    """rank, scale and targets where the set is an adapter, whose tensors have peft's names"""


@dataclass(frozen=True, slots=True)
class DeviceSet(WeightSet):
    """A whole model that vLLM's own weight transfer brings from device to device; `tensors` is empty."""

    backend: str = ""
    """vLLM's name of the transfer"""
    calls: Iterable[tuple[str, Mapping[str, Any]]] = ()
    """methods of vLLM's workers with their arguments, in order, from the opening to `finish_weight_update`"""
