from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayalign.models.catalogue import ModelShape, model_path, shape_of

LLAMA_1B = {
    "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 8192, "tie_word_embeddings": True,
}  # fmt: skip


def test_parameters_by_hand() -> None:
    # embeddings 10*4; layer: q and o 2*4*4, k and v 2*4*2, mlp 3*4*6, norms 2*4; final norm 4
    tied = 10 * 4 + (32 + 16 + 72 + 8) + 4
    assert ModelShape(10, 4, 1, 2, 1, 6, True).parameters == tied
    assert ModelShape(10, 4, 1, 2, 1, 6, False).parameters == tied + 40
    assert ModelShape(10, 4, 1, 2, 1, 6, True, head_size=4).parameters == tied + 48


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("preset:nano", 0.001),
        ("preset:tiny", 0.003),
        ("preset:small", 0.030),
        ("meta-llama/Llama-3.2-1B-Instruct", 1.24),
        ("meta-llama/Llama-3.1-8B", 8.03),
        ("meta-llama/Llama-3.3-70B-Instruct", 70.6),
        ("Qwen/Qwen2.5-7B-Instruct", 7.61),
        ("Qwen/Qwen2.5-72B", 72.7),
        ("Qwen/Qwen3-0.6B", 0.596),
        ("Qwen/Qwen3-32B", 32.8),
        ("google/gemma-2-9b-it", 9.24),
        ("google/gemma-3-1b-it", 1.0),
        ("mistralai/Mistral-7B-Instruct-v0.3", 7.25),
        ("mistralai/Mistral-Small-24B-Instruct-2501", 23.6),
    ],
)
def test_known_names_have_the_published_size(name: str, billions: float) -> None:
    shape = shape_of(name)
    assert shape is not None
    assert shape.parameters / 1e9 == pytest.approx(billions, rel=0.03)


def test_unknown_names_have_no_shape() -> None:
    assert shape_of("preset:huge") is None
    assert shape_of("someone/else") is None


def test_a_preset_takes_the_vocabulary_of_its_tokenizer() -> None:
    nano, wide = shape_of("preset:nano"), shape_of("preset:nano", 1512)
    assert nano and wide
    assert wide.parameters - nano.parameters == 2 * 1000 * 128


def test_a_local_folder_is_read_from_its_config(tmp_path: Path) -> None:
    known = shape_of("llama-3.2-1b")
    for config in (LLAMA_1B, {"text_config": LLAMA_1B, "tie_word_embeddings": True}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert shape_of(str(tmp_path)) == known
    (tmp_path / "config.json").write_text('{"n_embd": 768}')
    assert shape_of(str(tmp_path)) is None


def test_a_folder_is_named_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_path("mine") == str(tmp_path / "mine")
    assert model_path("nobody/nothing") == "nobody/nothing"
