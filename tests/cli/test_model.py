"""`rayalign model diff` and `rayalign model recover`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from rayalign.cli import app
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.models.load import make_preset


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Three models of one shape: raw, tuned and other."""
    for seed, name in enumerate(("raw", "tuned", "other")):
        make_preset("nano", build_tokenizer(), seed, tmp_path / name)
    return tmp_path


def test_a_difference_is_made_and_recovered_with_one_checksum(folders: Path) -> None:
    raw, tuned, difference, again = (str(folders / name) for name in ("raw", "tuned", "difference", "again"))
    made = CliRunner().invoke(app, ["model", "diff", tuned, raw, "--output", difference, "--dtype", "float32"])
    assert made.exit_code == 0, made.stderr
    line = re.fullmatch(rf"{re.escape(difference)}: sum -?[\d.]+, checksum (\w+); a recovery .+\n", made.stdout)
    assert line is not None, made.stdout
    recovered = CliRunner().invoke(app, ["model", "recover", difference, raw, "--output", again])
    assert recovered.exit_code == 0, recovered.stderr
    assert recovered.stdout == f"{again}: checksum {line[1]} agrees\n"
    expected, tensors = (load_file(f"{folder}/model.safetensors") for folder in (tuned, again))
    assert all((tensors[name] - tensor).abs().max() < 1e-6 for name, tensor in expected.items())


def test_another_raw_model_is_one_line_and_a_code(folders: Path) -> None:
    raw, tuned, other, difference, again = (
        str(folders / name) for name in ("raw", "tuned", "other", "difference", "again")
    )
    assert CliRunner().invoke(app, ["model", "diff", tuned, raw, "--output", difference]).exit_code == 0
    result = CliRunner().invoke(app, ["model", "recover", difference, other, "--output", again])
    assert result.exit_code == 1
    assert "checksum" in result.stderr and result.stderr.count("\n") == 1
    assert not Path(again).exists()
