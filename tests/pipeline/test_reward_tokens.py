"""The stage that gives a model reward tokens, which needs no cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rayalign.config import LoadedJob
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.errors import InputError
from rayalign.models.load import make_preset
from rayalign.pipeline.runner import run

JOB = "name: tokens\nstages:\n  tokens: {kind: reward_tokens, model: FOLDER, count: 4}\n"


def test_a_model_that_cannot_be_opened_again_is_no_result(study: Callable[..., LoadedJob], tmp_path: Path) -> None:
    model = tmp_path / "model"
    make_preset("nano", build_tokenizer(), 0, model)
    whole = load_file(model / "model.safetensors")
    without_norm = {name: tensor for name, tensor in whole.items() if name != "model.norm.weight"}
    save_file(without_norm, model / "model.safetensors", metadata={"format": "pt"})
    loaded = study(text=JOB.replace("FOLDER", str(model)))
    with pytest.raises(InputError, match=r"cannot be opened again: model\.norm\.weight is missing"):
        run(loaded)
    assert not list(tmp_path.rglob("done.json"))
    save_file(whole, model / "model.safetensors", metadata={"format": "pt"})
    assert (run(loaded) / "stages" / "tokens" / "done.json").is_file()
