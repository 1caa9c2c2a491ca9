"""Shapes of common models, so that a job can be planned without loading one. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a Llama-like decoder: gated MLP, grouped heads, no biases."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    tied: bool
    """input and output embeddings are one matrix"""
    head_size: int = 0
    """0: hidden / heads"""

    @property
    def parameters(self) -> int:
        """How many numbers the model has."""
        head = self.head_size or self.hidden // self.heads
        attention = 2 * self.hidden * head * (self.heads + self.kv_heads)
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.layers * layer + self.hidden

    def adapter_parameters(self, rank: int, targets: Sequence[str]) -> int:
        """How many numbers a LoRA adapter on these linear layers has."""
        head = self.head_size or self.hidden // self.heads
        ends = {
            "q_proj": self.hidden + self.heads * head,
            "k_proj": self.hidden + self.kv_heads * head,
            "v_proj": self.hidden + self.kv_heads * head,
            "o_proj": self.hidden + self.heads * head,
            "gate_proj": self.hidden + self.intermediate,
            "up_proj": self.hidden + self.intermediate,
            "down_proj": self.hidden + self.intermediate,
        }
        return self.layers * rank * sum(ends.get(target, 0) for target in targets)


READS_PAIRS = "reads_pairs"
"""key in the config.json of a pairwise reward model, which reads a prompt with two answers"""
PRESETS: Mapping[str, ModelShape] = MappingProxyType(
    {
        "pico": ModelShape(512, 64, 2, 2, 2, 192, False),
        "nano": ModelShape(512, 128, 4, 4, 4, 384, False),
        "tiny": ModelShape(512, 192, 6, 6, 6, 576, False),
        "small": ModelShape(2048, 512, 8, 8, 8, 1536, False),
    }
)
"""models made from the seed; the vocabulary is that of the stage's tokenizer, the one here a typical one"""

_LLAMA_8B = ModelShape(128256, 4096, 32, 32, 8, 14336, False)
_LLAMA_70B = ModelShape(128256, 8192, 80, 64, 8, 28672, False)
KNOWN: Mapping[str, ModelShape] = MappingProxyType(
    {
        "llama-3.2-1b": ModelShape(128256, 2048, 16, 32, 8, 8192, True),
        "llama-3.2-3b": ModelShape(128256, 3072, 28, 24, 8, 8192, True),
        **dict.fromkeys(("llama-3-8b", "llama-3.1-8b"), _LLAMA_8B),
        **dict.fromkeys(("llama-3-70b", "llama-3.1-70b", "llama-3.3-70b"), _LLAMA_70B),
        "qwen2.5-0.5b": ModelShape(151936, 896, 24, 14, 2, 4864, True),
        "qwen2.5-1.5b": ModelShape(151936, 1536, 28, 12, 2, 8960, True),
        "qwen2.5-3b": ModelShape(151936, 2048, 36, 16, 2, 11008, True),
        "qwen2.5-7b": ModelShape(152064, 3584, 28, 28, 4, 18944, False),
        "qwen2.5-14b": ModelShape(152064, 5120, 48, 40, 8, 13824, False),
        "qwen2.5-32b": ModelShape(152064, 5120, 64, 40, 8, 27648, False),
        "qwen2.5-72b": ModelShape(152064, 8192, 80, 64, 8, 29568, False),
        "qwen3-0.6b": ModelShape(151936, 1024, 28, 16, 8, 3072, True, 128),
        "qwen3-1.7b": ModelShape(151936, 2048, 28, 16, 8, 6144, True, 128),
        "qwen3-4b": ModelShape(151936, 2560, 36, 32, 8, 9728, True, 128),
        "qwen3-8b": ModelShape(151936, 4096, 36, 32, 8, 12288, False, 128),
        "qwen3-14b": ModelShape(151936, 5120, 40, 40, 8, 17408, False, 128),
        "qwen3-32b": ModelShape(151936, 5120, 64, 64, 8, 25600, False, 128),
        "gemma-2-2b": ModelShape(256000, 2304, 26, 8, 4, 9216, True, 256),
        "gemma-2-9b": ModelShape(256000, 3584, 42, 16, 8, 14336, True, 256),
        "gemma-2-27b": ModelShape(256000, 4608, 46, 32, 16, 36864, True, 128),
        "gemma-3-1b": ModelShape(262144, 1152, 26, 4, 1, 6912, True, 256),
        "gemma-3-4b": ModelShape(262208, 2560, 34, 8, 4, 10240, True, 256),
        "gemma-3-12b": ModelShape(262208, 3840, 48, 16, 8, 15360, True, 256),
        "gemma-3-27b": ModelShape(262208, 5376, 62, 32, 16, 21504, True, 128),
        "mistral-7b": ModelShape(32768, 4096, 32, 32, 8, 14336, False),
        **dict.fromkeys(
            ("mistral-small-24b", "mistral-small-3.1-24b", "mistral-small-3.2-24b"),
            ModelShape(131072, 5120, 40, 32, 8, 32768, False, 128),
        ),
    }
)
"""part of a lower-case hub name -> shape; of several that fit the longest is taken"""


_FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "llama-3": "llama",
        "qwen2.5": "qwen2",
        "qwen3": "qwen3",
        "gemma-2": "gemma2",
        "gemma-3": "gemma3_text",
        "mistral": "mistral",
    }
)
"""beginning of a key of `KNOWN` -> transformers' name of the architecture"""


def family_of(model: str) -> str | None:
    """transformers' name of the architecture of a well-known hub name; None where it is not known."""
    key = _known_key(model)
    families = [family for start, family in _FAMILIES.items() if key and key.startswith(start)]
    return families[0] if families else None


def _known_key(model: str) -> str | None:
    """The longest key of `KNOWN` that is part of a hub name."""
    fitting = [key for key in KNOWN if key in model.lower()]
    return max(fitting, key=len) if fitting else None


def shape_of(model: str, vocabulary: int | None = None) -> ModelShape | None:
    """The shape of a preset, a local folder or a well-known hub name; None where it is not known.

    Args:
        model: as a job names it, other than `stage:`.
        vocabulary: of the tokenizer that a preset will be made for.
    """
    if model.startswith("preset:"):
        shape = PRESETS.get(model.removeprefix("preset:"))
        return replace(shape, vocabulary=vocabulary) if shape and vocabulary else shape
    config = Path(model) / "config.json"
    if config.is_file():
        return _from_config(json.loads(config.read_text(encoding="utf-8")))
    key = _known_key(model)
    return KNOWN[key] if key else None


def model_path(model: str) -> str:
    """A local folder by its absolute path, for processes that run in another folder; hub names as they are."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _from_config(config: Mapping[str, Any]) -> ModelShape | None:
    text: Mapping[str, Any] = config.get("text_config", config)
    try:
        heads = text["num_attention_heads"]
        return ModelShape(
            vocabulary=text["vocab_size"],
            hidden=text["hidden_size"],
            layers=text["num_hidden_layers"],
            heads=heads,
            kv_heads=text.get("num_key_value_heads") or heads,
            intermediate=text["intermediate_size"],
            tied=config.get("tie_word_embeddings", False),
            head_size=text.get("head_dim") or 0,
        )
    except KeyError:
        return None  # an architecture that names its sizes otherwise
