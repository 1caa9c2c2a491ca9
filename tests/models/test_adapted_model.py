"""Merged adapters in a whole model: base + sum of w_i times the product of each adapter's factors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rayalign.config import LoraConfig
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.errors import InputError
from rayalign.models.adapter_folder import AdapterFolder
from rayalign.models.adapter_output import save_adapter
from rayalign.models.load import make_preset
from rayalign.models.lora import PREFIX
from rayalign.models.merge import merge_into

LORA = LoraConfig(rank=2, alpha=6.0, targets=("q_proj",))
Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_preset("nano", build_tokenizer(), 0, folder)
    return folder


def adapter(folder: Path, base: Path, seed: int, inputs: int | None = None) -> tuple[Path, torch.Tensor]:
    """An adapter of one matrix, and what it adds to it."""
    outputs, width = load_file(base / "model.safetensors")[f"{Q}.weight"].shape
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(2, inputs or width, generator=generator)
    b = torch.randn(outputs, 2, generator=generator)
    tensors = {f"{PREFIX}{Q}.lora_A.weight": a, f"{PREFIX}{Q}.lora_B.weight": b}
    save_adapter(folder, tensors, LORA, base=str(base), head="causal")
    return folder, 3.0 * b @ a


def test_the_sum_is_added_to_the_base_and_kept_beside_it(base: Path, tmp_path: Path) -> None:
    (first, one), (second, two) = (adapter(tmp_path / str(seed), base, seed) for seed in (1, 2))
    merge_into(base, [first, second], [0.75, -0.5], tmp_path / "out")
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out"))
    torch.testing.assert_close(after.pop(f"{Q}.weight"), before.pop(f"{Q}.weight") + 0.75 * one - 0.5 * two)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name])
    assert (tmp_path / "out" / "tokenizer.json").is_file() and not (tmp_path / "out" / "probe.json").exists()
    assert AdapterFolder.read(tmp_path / "out" / "adapter").modules[f"{PREFIX}{Q}"].rank == 4


def test_adapters_of_another_model_are_refused(base: Path, tmp_path: Path) -> None:
    wide, _ = adapter(tmp_path / "wide", base, 1, inputs=7)
    with pytest.raises(InputError, match="q_proj.weight is .* but the adapters move .*, 7"):
        merge_into(base, [wide], [1.0], tmp_path / "out")
    assert not (tmp_path / "out").exists()
