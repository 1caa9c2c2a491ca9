"""LoRA adapters on disk in peft's form, and whether they can be merged."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayalign.errors import InputError
from rayalign.weights.streaming import StoredTensor, read_layout

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?:embedding_)?(?P<factor>[AB])(?:\.weight)?")
PREFIX = "base_model.model."
"""of every name in an adapter's file"""
_MUST_AGREE = (
    "base_model_name_or_path",
    "target_modules",
    "task_type",
    "bias",
    "fan_in_fan_out",
    "layers_to_transform",
    "modules_to_save",
)


@dataclass(frozen=True)
class Factors:
    """A [rank, inputs] and B [outputs, rank] of one module; they stay on disk."""

    a_name: str
    a: StoredTensor
    b_name: str
    b: StoredTensor
    scale: float
    """of the product B A: alpha / rank, or alpha / sqrt(rank) (rsLoRA)"""

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.a.shape[0]

    @property
    def width(self) -> tuple[int, ...]:
        """Outputs and inputs of the matrix that they move."""
        return self.b.shape[0], self.a.shape[1]


@dataclass(frozen=True)
class AdapterFolder:
    """One adapter: its configuration, the factors of each module, and what it holds beside them."""

    path: Path
    config: Mapping[str, Any]
    modules: Mapping[str, Factors]
    whole: Mapping[str, StoredTensor]
    """modules trained whole, and biases"""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Module -> outputs and inputs of its matrix; name -> shape of what was trained whole."""
        matrices = {module: factors.width for module, factors in self.modules.items()}
        return {**matrices, **{name: tensor.shape for name, tensor in self.whole.items()}}

    @staticmethod
    def stands_at(path: Path) -> bool:
        """The folder holds an adapter."""
        return (path / CONFIG).exists()

    @classmethod
    def read(cls, path: Path) -> AdapterFolder:
        """The folder's configuration and layout; InputError where it cannot be used."""
        config = _read_config(path)
        modules: dict[str, dict[str, tuple[str, StoredTensor]]] = {}
        whole: dict[str, StoredTensor] = {}
        for name, tensor in read_layout(path / WEIGHTS).items():
            match = _FACTOR.fullmatch(name)
            if match is None:
                whole[name] = tensor
            else:
                modules.setdefault(match["module"], {})[match["factor"]] = (name, tensor)
        factors = {module: _factors(path, config, module, pair) for module, pair in sorted(modules.items())}
        if not factors:
            raise InputError(f"{path / WEIGHTS} holds no LoRA factors; name an adapter that peft saved")
        return cls(path, config, factors, whole)


def same_targets(adapters: Sequence[AdapterFolder]) -> None:
    """InputError, which names the first difference, where adapters have other bases, targets or shapes."""
    first = adapters[0]
    for adapter in adapters[1:]:
        for key in _MUST_AGREE:
            ours, theirs = _comparable(first, key), _comparable(adapter, key)
            if ours != theirs:
                raise InputError(
                    f"{adapter.path}: its {key} is {theirs!r}, that of {first.path} is {ours!r}; merge adapters of one "
                    "base model and the same targets"
                )
        _same_tensors(first, adapter)


def _same_tensors(first: AdapterFolder, adapter: AdapterFolder) -> None:
    in_one_alone = sorted(first.shapes.keys() ^ adapter.shapes.keys())
    if in_one_alone:
        raise InputError(f"{in_one_alone[0]} is in only one of {first.path} and {adapter.path}; merge the same targets")
    for name, ours in first.shapes.items():
        theirs = adapter.shapes[name]
        if ours != theirs:
            raise InputError(
                f"{name} is {theirs} in {adapter.path}, but {ours} in {first.path}; merge adapters of one base model"
            )


def _comparable(adapter: AdapterFolder, key: str) -> Any:
    """A setting, with lists in one order and a local base by its whole path."""
    value = adapter.config.get(key)
    if isinstance(value, list):
        return sorted(value, key=str)
    if key == "base_model_name_or_path" and value and Path(value).is_dir():
        return str(Path(value).resolve())
    return value


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        kind = config["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not an adapter folder ({error!r}); name one that peft saved") from error
    if kind != "LORA":
        raise InputError(f"{path} is an adapter of type {kind}; only LoRA adapters can be merged")
    if not isinstance(config.get("lora_alpha"), int | float):
        raise InputError(f"{path / CONFIG} has no number lora_alpha; save the adapter again with peft")
    if config.get("use_dora"):
        raise InputError(f"{path} is a DoRA adapter, which is not linear in its factors; only plain LoRA can be merged")
    if not (path / WEIGHTS).exists():
        raise InputError(f"{path} has no {WEIGHTS}; save the adapter with safetensors (peft's save_pretrained does)")
    return config


def _factors(
    path: Path, config: Mapping[str, Any], module: str, pair: Mapping[str, tuple[str, StoredTensor]]
) -> Factors:
    if len(pair) != 2:
        raise InputError(f"{path / WEIGHTS}: {module} has only one of its two factors; save the adapter again")
    (a_name, a), (b_name, b) = pair["A"], pair["B"]
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or a.shape[0] == 0:
        raise InputError(
            f"{path / WEIGHTS}: {module} has A {a.shape} and B {b.shape}; factors of matrices are [rank, inputs] and "
            "[outputs, rank]"
        )
    rank = a.shape[0]
    alpha = _alpha(config, module.removeprefix(PREFIX))
    return Factors(a_name, a, b_name, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _alpha(config: Mapping[str, Any], module: str) -> float:
    """The module's own alpha where a pattern names it (peft matches the end of the name), else the adapter's."""
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return float(alpha)
    return float(config["lora_alpha"])
