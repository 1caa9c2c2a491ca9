"""A trained adapter as a folder in peft's form, which peft and vLLM load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from rayalign.config import LoraConfig
from rayalign.models.heads import HeadKind
from rayalign.models.lora import PREFIX, WHOLE

FOLDER = "adapter"
"""inside the folder of the merged model"""


def save_adapter(
    folder: Path,
    tensors: Mapping[str, Tensor],
    config: LoraConfig,
    *,
    base: str,
    head: HeadKind,
) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`; tensors have peft's names."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    whole = [name for name in WHOLE if f"{PREFIX}{name}.weight" in tensors]
    alpha = int(config.alpha) if config.alpha.is_integer() else config.alpha
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if head == "causal" else "SEQ_CLS",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": alpha,
        "target_modules": sorted(config.targets),
        "modules_to_save": whole or None,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
