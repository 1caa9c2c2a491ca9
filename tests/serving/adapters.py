"""A base of the smallest preset with adapters that change what it writes."""

from __future__ import annotations

from pathlib import Path

import torch

from rayalign.config import LoraConfig
from rayalign.models.adapter_output import save_adapter
from rayalign.weights.files import shapes

TARGETS = ("q_proj", "v_proj", "down_proj")


def write_adapter(
    base: Path, folder: Path, seed: int, *, rank: int = 4, alpha: float = 8.0, targets: tuple[str, ...] = TARGETS
) -> Path:
    """Random factors, large enough that each adapter has answers of its own."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (outputs, inputs) in matrices(base, targets).items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{module}.lora_A.weight"] = 0.3 * torch.randn(rank, inputs, generator=draw)
        tensors[f"{module}.lora_B.weight"] = 0.3 * torch.randn(outputs, rank, generator=draw)
    config = LoraConfig(rank=rank, alpha=alpha, targets=targets)
    save_adapter(folder, tensors, config, base=str(base), head="causal")
    return folder


def matrices(base: Path, targets: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the weights that adapters on these targets move."""
    found = {}
    for name, shape in shapes(base).items():
        if name.removesuffix(".weight").rpartition(".")[2] in targets:
            found[name] = shape
    return found


def write_adapters(base: str, folder: Path) -> dict[str, str]:
    """Adapters of four preferences, two of them of one dimension, of different ranks."""
    made = {}
    for seed, (name, rank) in enumerate({"P1A": 4, "P1B": 4, "P2B": 6, "P3A": 2}.items()):
        made[name] = str(write_adapter(Path(base), folder / name, seed, rank=rank))
    return made
