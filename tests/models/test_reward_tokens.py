from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rayalign.data.chat import load_tokenizer
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.data.reward_tokens import reward_token_ids
from rayalign.errors import InputError
from rayalign.models.load import make_preset
from rayalign.models.reward_tokens import add_reward_tokens
from rayalign.models.verify import verify_saved


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    make_preset("nano", build_tokenizer(), 0, tmp_path / "preset")
    return tmp_path / "preset"


def test_only_the_embeddings_grow(preset: Path, tmp_path: Path) -> None:
    add_reward_tokens(preset, tmp_path / "out", 4, seed=0)
    verify_saved(tmp_path / "out")
    before = AutoModelForCausalLM.from_pretrained(preset).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    rows = len(build_tokenizer())
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name][: len(tensor)])
        assert len(after[name]) == len(tensor) + (4 if len(tensor) == rows else 0)
    added = after["model.embed_tokens.weight"][rows:]
    trained = before["model.embed_tokens.weight"]
    distance = (added - trained.mean(0)) / trained.std(0)
    assert 0.05 < distance.std() < 0.15 and len(added.unique(dim=0)) == 4
    assert reward_token_ids(load_tokenizer(str(tmp_path / "out"))) == tuple(range(rows, rows + 4))


def test_the_same_seed_gives_the_same_rows(preset: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        add_reward_tokens(preset, tmp_path / name, 2, seed=seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_a_model_that_has_them_is_refused(preset: Path, tmp_path: Path) -> None:
    add_reward_tokens(preset, tmp_path / "out", 2, seed=0)
    with pytest.raises(InputError, match="has reward tokens already"):
        add_reward_tokens(tmp_path / "out", tmp_path / "again", 2, seed=0)
    assert not (tmp_path / "again").exists()
