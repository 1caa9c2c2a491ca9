from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from rayalign.cli import app
from rayalign.config import LoraConfig
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.models.adapter_output import save_adapter
from rayalign.models.load import make_preset

A, B = "base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"


def adapter(folder: Path, value: float) -> str:
    folder.mkdir()
    save_file({A: torch.ones(1, 2), B: torch.full((2, 1), value)}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": "base", "r": 1, "lora_alpha": 1}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


def test_merge_writes_the_weighted_sum(tmp_path: Path) -> None:
    folders = [adapter(tmp_path / "a", 1.0), adapter(tmp_path / "b", 4.0)]
    out = str(tmp_path / "out")
    result = CliRunner().invoke(app, ["merge", *folders, "--weights", "-0.5,2", "--mode", "factor", "--output", out])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{out}\n"
    assert load_file(f"{out}/adapter_model.safetensors")[B].tolist() == [[7.5], [7.5]]


def test_weights_are_equal_unless_they_are_set(tmp_path: Path) -> None:
    folders = [adapter(tmp_path / "a", 1.0), adapter(tmp_path / "b", 4.0)]
    out = str(tmp_path / "out")
    result = CliRunner().invoke(app, ["merge", *folders, "--output", out])
    assert result.exit_code == 0, result.stderr
    assert load_file(f"{out}/adapter_model.safetensors")[B].tolist() == [[0.5, 2.0], [0.5, 2.0]]


def test_bad_weights_are_one_line(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", 1.0)
    for weights, message in (("1,x", "no list of numbers"), ("1,2", "2 weights do not fit 1 inputs")):
        result = CliRunner().invoke(app, ["merge", folder, "--weights", weights, "--output", str(tmp_path / "out")])
        assert result.exit_code == 2
        assert message in result.stderr and result.stderr.count("\n") == 1


def test_a_base_makes_the_sum_a_model(tmp_path: Path) -> None:
    base = tmp_path / "base"
    make_preset("nano", build_tokenizer(), 0, base)
    name = "model.layers.0.self_attn.q_proj"
    before = load_file(base / "model.safetensors")[f"{name}.weight"]
    factors = {"A": torch.ones(1, before.shape[1]), "B": torch.ones(before.shape[0], 1)}
    tensors = {f"base_model.model.{name}.lora_{key}.weight": factor for key, factor in factors.items()}
    config = LoraConfig(rank=1, alpha=1.0, targets=("q_proj",))
    save_adapter(tmp_path / "a", tensors, config, base=str(base), head="causal")
    out = tmp_path / "out"
    arguments = ["merge", str(tmp_path / "a"), "--weights", "2", "--base", str(base), "--output", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    torch.testing.assert_close(load_file(out / "model.safetensors")[f"{name}.weight"], before + 2.0)
