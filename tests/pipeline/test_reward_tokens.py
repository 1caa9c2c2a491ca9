"""The stage that gives a model reward tokens, which needs no cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rayalign.config import LoadedJob
from rayalign.data.chat import load_tokenizer
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.data.reward_tokens import reward_token_ids
from rayalign.errors import InputError
from rayalign.models.load import make_preset
from rayalign.models.reward_tokens import add_reward_tokens
from rayalign.pipeline.inputs import Inputs
from rayalign.pipeline.kind import kind_of
from rayalign.pipeline.runner import run

EMBEDDINGS = "model.embed_tokens.weight"
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


def test_the_stage_adds_as_many_tokens_as_it_sets_by_the_seed_of_the_run(
    study: Callable[..., LoadedJob], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    make_preset("nano", build_tokenizer(), 0, model)
    text = JOB.replace("FOLDER", str(model)).replace("count: 4", "count: 3")
    loaded = study("seed=5", text=text)
    planned = Inputs(loaded).tokenizer("stage:tokens")
    add_reward_tokens(model, tmp_path / "expected", 3, seed=5)
    made = run(loaded) / "stages" / "tokens" / "model"
    assert (made / "model.safetensors").read_bytes() == (tmp_path / "expected" / "model.safetensors").read_bytes()
    old = len(build_tokenizer())
    assert reward_token_ids(load_tokenizer(str(made))) == reward_token_ids(planned) == (old, old + 1, old + 2)
    stage = kind_of(loaded.job.stages["tokens"])
    shape = stage.shape(loaded.job, "policy")
    assert shape is not None and shape.vocabulary == len(load_file(made / "model.safetensors")[EMBEDDINGS])
