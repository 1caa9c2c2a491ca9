"""Model folders as users have them, damaged or of mixed origin: each is refused in one line with the remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayalign.config import LearnerConfig
from rayalign.data.chat import load_tokenizer, train_tokenizer
from rayalign.errors import InputError
from rayalign.models.load import load_causal, make_preset
from rayalign.models.verify import verify_folder
from rayalign.weights.headers import prove_folder

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_preset("nano", train_tokenizer(["the cat sat, one two. user assistant"] * 5, 300), 0, folder)
    return folder


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    loaded = json.loads(file.read_text())
    change(loaded)
    file.write_text(json.dumps(loaded))


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100_000])


def is_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text(POINTER)


def unknown_rope(config: dict[str, Any]) -> None:
    config.pop("rope_parameters", None)
    config["rope_scaling"] = {"type": "nonsense", "factor": 2.0}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (is_pointer, r"model\.safetensors: is a git-lfs pointer.*git lfs pull"),
        (cut, r"model\.safetensors is cut short: it has 100000 of \d+ bytes; download it again"),
        (lambda folder: (folder / "model.safetensors").write_text("nothing like it"), r"is no safetensors file"),
        (
            lambda folder: edit(folder / "config.json", lambda c: c.update(vocab_size=400)),
            r"config\.json has a vocabulary of 400 tokens, but the weights have \d+ embeddings",
        ),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json cannot be read as JSON"),
        (lambda folder: (folder / "tokenizer.json").write_text(POINTER), r"tokenizer\.json: is a git-lfs pointer"),
    ],
)
def test_a_damaged_folder_is_known_by_its_headers(
    whole: Path, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    prove_folder(folder)
    damage(folder)
    for prove in (prove_folder, verify_folder):
        with pytest.raises(InputError, match=rf"^model {folder}: .*{said}"):
            prove(folder)


def test_an_unknown_kind_of_position_is_refused_before_the_weights_are_read(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    edit(folder / "config.json", unknown_rope)
    for load in (verify_folder, lambda path: load_causal(str(path), LearnerConfig())):
        with pytest.raises(InputError, match=rf"^model {folder}: cannot be loaded .*nonsense.*copy the whole folder"):
            load(folder)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("tokenizer.json", lambda t: t.update(pre_tokenizer={"type": "FutureSplit"}), "newer release of tokenizers"),
        ("tokenizer.json", lambda t: t["added_tokens"].append(t["added_tokens"][0] | {"id": 300, "content": "zebra"}),
         r"'zebra' with id \d+, but the model has embeddings for \d+ tokens only; resize"),
    ],
)  # fmt: skip
def test_a_tokenizer_of_another_model_or_time_is_refused(
    whole: Path, tmp_path: Path, name: str, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    edit(folder / name, change)
    with pytest.raises(InputError, match=rf"^model {folder}: .*{said}"):
        load_tokenizer(str(folder))


def test_a_template_that_fails_is_refused_with_the_folder(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['role'] + 1 }}{% endfor %}")
    with pytest.raises(InputError, match=rf"^model {folder}: chat template: fails with TypeError"):
        load_tokenizer(str(folder))
