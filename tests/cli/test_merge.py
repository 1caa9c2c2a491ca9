from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from rayalign.cli import app

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
