"""`rayalign model diff` and `rayalign model recover`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from rayalign.cli import app
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.models.difference import MANIFEST
from rayalign.models.load import make_preset
from rayalign.models.reward_tokens import add_reward_tokens


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


def halved(folder: Path) -> None:
    """Store the weights of a model in bfloat16."""
    file = folder / "model.safetensors"
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def test_differences_have_the_type_that_is_asked_for_and_say_how_exact_they_are(folders: Path) -> None:
    raw, tuned = folders / "raw", folders / "tuned"
    for folder in (raw, tuned):
        halved(folder)
    lines = {}
    for dtype in ("same", "float32"):
        out = folders / dtype
        made = CliRunner().invoke(app, ["model", "diff", str(tuned), str(raw), "--output", str(out), "--dtype", dtype])
        lines[dtype] = made.stdout
    types = {
        dtype: {str(x.dtype) for x in load_file(folders / dtype / "model.safetensors").values()} for dtype in lines
    }
    assert types == {"same": {"torch.bfloat16"}, "float32": {"torch.float32"}}
    differing = {}
    for dtype, line in lines.items():
        stated = re.search(r"a recovery differs in (\d+) numbers, by at most", line)
        differing[dtype] = int(stated[1]) if stated else 0
    assert differing["same"] > 100 * differing["float32"]


def test_a_published_difference_is_read_as_the_option_says(folders: Path) -> None:
    raw, published = folders / "raw", folders / "published"
    add_reward_tokens(raw, folders / "grown", 2, seed=0)
    CliRunner().invoke(app, ["model", "diff", str(folders / "grown"), str(raw), "--output", str(published)])
    (published / MANIFEST).unlink()
    name, rows = "model.embed_tokens.weight", len(load_file(raw / "model.safetensors")["model.embed_tokens.weight"])
    change, base = load_file(published / "model.safetensors")[name], load_file(raw / "model.safetensors")[name]
    for grown in ("mean", "whole"):
        options = ["--output", str(folders / f"as-{grown}"), "--grown", grown]
        result = CliRunner().invoke(app, ["model", "recover", str(published), str(raw), *options])
        assert "no checksum stands beside this difference" in result.stdout
    assert torch.equal(load_file(folders / "as-whole" / "model.safetensors")[name], change)
    as_mean = load_file(folders / "as-mean" / "model.safetensors")[name]
    torch.testing.assert_close(as_mean[:rows], base + change[:rows])
    assert not torch.equal(as_mean, change)
