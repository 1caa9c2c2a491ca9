"""What vLLM 0.32 computes wrongly on a CPU; remove each function once vLLM is mended."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from rayalign.config import LoraConfig
from rayalign.models.adapter_output import save_adapter
from rayalign.models.lora import PREFIX
from rayalign.rollout.chat import ChatAdapter
from rayalign.weights.files import shapes

_NUMBER = 1 << 30
"""of the adapter that changes nothing; other adapters count from 1"""


def adapter_without_effect(base: Path, targets: Collection[str], folder: Path) -> ChatAdapter:
    """Write an adapter of zeros, which requests for the base name wherever others may name an adapter.

    On a CPU a row without an adapter gets the one in vLLM's last slot, since its place there is -1
    (vllm-project/vllm#48421). With an adapter in every row there is no such place.
    """
    matrices = {name.removesuffix(".weight"): shape for name, shape in shapes(base).items()}
    module = next(name for name in matrices if name.rpartition(".")[2] in targets)
    outputs, inputs = matrices[module]
    tensors = {
        f"{PREFIX}{module}.lora_A.weight": torch.zeros(1, inputs),
        f"{PREFIX}{module}.lora_B.weight": torch.zeros(outputs, 1),
    }
    target = module.rpartition(".")[2]
    save_adapter(folder, tensors, LoraConfig(rank=1, alpha=1.0, targets=(target,)), base=str(base), head="causal")
    return ChatAdapter(_NUMBER, str(folder))
