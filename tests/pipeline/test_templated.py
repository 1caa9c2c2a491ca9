"""A base model without a chat template gets the one that the job names, in every process that loads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rayalign.config import LoadedJob
from rayalign.data.chat import load_tokenizer, train_tokenizer
from rayalign.errors import InputError
from rayalign.models.load import make_preset
from rayalign.pipeline.checks import check
from rayalign.pipeline.hashing import stage_hashes
from rayalign.pipeline.templated import templated

Study = Callable[..., LoadedJob]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_preset("nano", train_tokenizer(["the cat sat ."] * 5, 300), 0, folder)
    (folder / "chat_template.jinja").unlink()
    return folder


def job(base: Path, template: str | None) -> str:
    stage = {"kind": "train", "algorithm": {"name": "sft"}, "model": str(base), "data": {"limit": 4}}
    return json.dumps({"name": "job", "chat_template": template, "stages": {"sft": stage}})


def test_a_base_model_is_loaded_with_the_named_template(base: Path, tmp_path: Path) -> None:
    folder = Path(templated(str(base), "alpaca", tmp_path / "models"))
    assert "### Instruction:" in str(load_tokenizer(str(folder)).chat_template)
    assert (folder / "model.safetensors").samefile(base / "model.safetensors")
    assert not (base / "chat_template.jinja").exists()
    assert templated(str(base), "alpaca", tmp_path / "models") == str(folder)
    assert templated(str(folder), "chatml", tmp_path / "models") == str(folder), "a model's own is never replaced"
    assert templated(str(base), None, tmp_path) == str(base)


def test_the_template_is_checked_and_part_of_what_a_stage_depends_on(base: Path, study: Study) -> None:
    with pytest.raises(
        InputError, match=r"stages\.sft\.model: model without chat template.*`chat_template` of the job"
    ):
        check(study(text=job(base, None)))
    with pytest.raises(InputError, match=r"chat_template: 'alpacca' is neither a file nor.*did you mean alpaca"):
        check(study(text=job(base, "alpacca")))
    check(study(text=job(base, "alpaca")))
    hashes = {stage_hashes(study(text=job(base, name)).job)["sft"] for name in (None, "alpaca", "chatml")}
    assert len(hashes) == 3
