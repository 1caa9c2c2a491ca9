from __future__ import annotations

from pathlib import Path

import torch

from rayalign.models.adapted_model import fits_base
from rayalign.models.adapter_folder import AdapterFolder
from rayalign.models.model_folder import ModelFolder
from rayalign.rollout.vllm_0_32 import adapter_without_effect


def test_the_adapter_of_the_base_fits_it_and_adds_nothing(model: str, tmp_path: Path) -> None:
    adapter = adapter_without_effect(Path(model), ("v_proj", "down_proj"), tmp_path / "none")
    folder = AdapterFolder.read(Path(adapter.folder))
    fits_base(ModelFolder.read(Path(model)), folder)
    (factors,) = folder.modules.values()
    assert not torch.any(factors.b.read() @ factors.a.read())
    assert folder.config["target_modules"] in (["v_proj"], ["down_proj"])
