"""Small models of the same architecture, and models at full size without their weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from rayalign.config import LearnerConfig
from rayalign.data.chat import train_tokenizer
from rayalign.errors import InputError
from rayalign.models.blueprint import blueprint, patterns
from rayalign.models.catalogue import KNOWN, family_of, shape_of
from rayalign.models.load import load_causal, load_scalar
from rayalign.models.miniature import catalogue_config, is_scalar, shrunk, write_miniature, write_stand_in

NAMES = ["Qwen/Qwen2.5-7B-Instruct", "meta-llama/Llama-3.1-8B", "google/gemma-2-9b-it", "Qwen/Qwen3-0.6B"]


def test_every_name_of_the_catalogue_has_an_architecture() -> None:
    assert all(family_of(name) for name in KNOWN)
    assert family_of("someone/else") is None


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_from_the_catalogue_has_the_size_that_the_plan_counts(name: str) -> None:
    shape = shape_of(name)
    assert shape is not None
    assert blueprint(catalogue_config(name)).parameters == pytest.approx(shape.parameters, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_miniature_has_the_names_and_relations_of_its_model(name: str) -> None:
    config = catalogue_config(name)
    small = shrunk(config, 300)
    whole, few = blueprint(config), blueprint(small)
    assert few.patterns == whole.patterns
    assert few.tied == whole.tied
    assert few.linear == whole.linear
    ratio = config.num_attention_heads // config.num_key_value_heads
    assert small.num_attention_heads // small.num_key_value_heads == ratio
    assert few.parameters < 6_000_000
    assert small.vocab_size == 300
    assert small.max_position_embeddings == config.max_position_embeddings


def test_layers_of_several_kinds_each_stay() -> None:
    config = catalogue_config("google/gemma-2-9b")
    assert set(shrunk(config, 300).layer_types) == set(config.layer_types) == {"sliding_attention", "full_attention"}


def test_an_odd_number_of_key_heads_becomes_one() -> None:
    config = catalogue_config("Qwen/Qwen2.5-7B")
    config.num_attention_heads, config.num_key_value_heads = 21, 3
    small = shrunk(config, 300)
    assert (small.num_attention_heads, small.num_key_value_heads) == (7, 1)


def test_miniatures_load_as_their_models_would(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(iter(["one two three"]), 300)
    small = shrunk(catalogue_config("Qwen/Qwen2.5-7B"), len(tokenizer))
    write_miniature(small, tokenizer, tmp_path / "causal", scalar=False)
    write_miniature(small, tokenizer, tmp_path / "scalar", scalar=True)
    causal = load_causal(str(tmp_path / "causal"), LearnerConfig())
    assert any("q_proj.bias" in name for name, _ in causal.named_parameters())
    scalar = load_scalar(str(tmp_path / "scalar"), LearnerConfig(), seed=0)
    assert is_scalar(scalar.config)
    ids_BT = torch.tensor([[5, 6, 7]])
    assert scalar(ids_BT).logits.shape == (1, 1)


def test_a_miniature_is_the_same_each_time(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(iter(["one two three"]), 300)
    small = shrunk(catalogue_config("meta-llama/Llama-3.2-1B"), len(tokenizer))
    for name in ("one", "other"):
        write_miniature(small, tokenizer, tmp_path / name, scalar=False)
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other"))
    assert one == other


def test_a_stand_in_has_a_tokenizer_and_no_weights(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(iter(["one two three"]), 300)
    write_stand_in(catalogue_config("Qwen/Qwen2.5-7B"), tokenizer, tmp_path)
    assert (tmp_path / "config.json").is_file() and (tmp_path / "tokenizer.json").is_file()
    assert not list(tmp_path.glob("*.safetensors"))
    stand_in, model = shape_of(str(tmp_path)), shape_of("Qwen/Qwen2.5-7B")
    assert stand_in is not None and model is not None
    assert stand_in.parameters == model.parameters


def test_a_configuration_of_no_language_model_is_refused() -> None:
    with pytest.raises(InputError, match="no model can be built from the configuration"):
        blueprint(AutoConfig.for_model("vit"))


def test_numbers_of_layers_and_experts_leave_a_pattern() -> None:
    names = ["model.layers.0.mlp.experts.3.up.weight", "model.layers.11.mlp.experts.0.up.weight", "lm_head.weight"]
    assert patterns(names) == {"model.layers.N.mlp.experts.N.up.weight", "lm_head.weight"}
