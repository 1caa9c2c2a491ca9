from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.errors import InputError, WeightError
from rayalign.models.difference import MANIFEST, read_manifest, recover, write_difference
from rayalign.models.load import make_preset
from rayalign.models.reward_tokens import add_reward_tokens

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    make_preset("nano", build_tokenizer(), 0, tmp_path / "raw")
    return tmp_path / "raw"


def tuned(source: Path, out: Path, dtype: torch.dtype = torch.float32, shift: float = 0.01, scale: float = 1.0) -> Path:
    """The model of a folder with other weights."""
    model = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale).add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * shift)
    model.to(dtype).save_pretrained(out)
    copy_tokenizer(source, out)
    return out


def copy_tokenizer(source: Path, out: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (source / name).exists():
            (out / name).write_bytes((source / name).read_bytes())


def tensors(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def assert_equal(one: Tensors, other: Tensors) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype and torch.equal(tensor, other[name])


def test_the_difference_is_tuned_less_raw_and_the_recovery_what_was_promised(raw: Path, tmp_path: Path) -> None:
    model = tuned(raw, tmp_path / "tuned")
    difference = write_difference(model, raw, tmp_path / "diff")
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(tensors(tmp_path / "diff")[name], tensors(model)[name] - tensors(raw)[name])
    assert recover(tmp_path / "diff", raw, tmp_path / "again") == difference == read_manifest(tmp_path / "diff")
    recovered, original = tensors(tmp_path / "again"), tensors(model)
    unequal = sum(int((recovered[name] != original[name]).sum()) for name in original)
    largest = max(float((recovered[name] - original[name]).abs().max()) for name in original)
    assert (difference.unequal, difference.largest_error) == (unequal, largest) and largest < 1e-6
    assert difference.sum == pytest.approx(sum(float(x.double().sum()) for x in recovered.values()), rel=1e-9)
    assert not (tmp_path / "again" / MANIFEST).exists() and (tmp_path / "again" / "tokenizer.json").exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_of_16_bits_are_rounded_and_float32_differences_are_exact(
    raw: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    half = tuned(raw, tmp_path / "half", dtype, shift=0.0)
    model = tuned(raw, tmp_path / "tuned", dtype, shift=0.1)
    rounded = write_difference(model, half, tmp_path / "diff")
    assert rounded.unequal > 0 and rounded.dtypes == {}
    exact = write_difference(model, half, tmp_path / "wide", dtype=torch.float32)
    assert exact.unequal == 0 and set(exact.dtypes.values()) == {str(dtype).removeprefix("torch.")}
    recover(tmp_path / "wide", half, tmp_path / "again")
    assert_equal(tensors(tmp_path / "again"), tensors(model))


def test_numbers_that_lie_near_are_given_back_bit_for_bit(raw: Path, tmp_path: Path) -> None:
    # the difference of two numbers within a factor of two is exact
    model = tuned(raw, tmp_path / "tuned", torch.bfloat16, shift=0.0, scale=1.5)
    half = tuned(raw, tmp_path / "half", torch.bfloat16, shift=0.0)
    assert write_difference(model, half, tmp_path / "diff").unequal == 0
    recover(tmp_path / "diff", half, tmp_path / "again")
    assert_equal(tensors(tmp_path / "again"), tensors(model))


def test_further_tokens_are_differences_to_the_mean_of_the_others(raw: Path, tmp_path: Path) -> None:
    add_reward_tokens(raw, tmp_path / "grown", 2, seed=0)
    model = tuned(tmp_path / "grown", tmp_path / "tuned")
    write_difference(model, raw, tmp_path / "diff", dtype=torch.float32)
    name, rows = "model.embed_tokens.weight", len(build_tokenizer())
    change = tensors(tmp_path / "diff")[name]
    expected = tensors(model)[name][rows:] - tensors(raw)[name].double().mean(0).float()
    torch.testing.assert_close(change[rows:], expected)
    recover(tmp_path / "diff", raw, tmp_path / "again")
    torch.testing.assert_close(tensors(tmp_path / "again"), tensors(model), atol=1e-6, rtol=0)


def test_a_published_difference_may_hold_grown_embeddings_whole(raw: Path, tmp_path: Path) -> None:
    add_reward_tokens(raw, tmp_path / "grown", 2, seed=0)
    model = tuned(tmp_path / "grown", tmp_path / "tuned")
    write_difference(model, raw, tmp_path / "diff")
    (tmp_path / "diff" / MANIFEST).unlink()
    published, original = tensors(tmp_path / "diff"), tensors(model)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        published[name] = original[name]
    save_file(published, tmp_path / "diff" / "model.safetensors")
    assert recover(tmp_path / "diff", raw, tmp_path / "again", grown="whole") is None
    torch.testing.assert_close(tensors(tmp_path / "again"), original, atol=1e-6, rtol=0)


def test_a_head_of_its_own_is_stored_as_it_is(raw: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(raw, num_labels=1)
    model.save_pretrained(tmp_path / "rm")
    copy_tokenizer(raw, tmp_path / "rm")
    assert write_difference(tmp_path / "rm", raw, tmp_path / "diff").unequal == 0
    assert torch.equal(tensors(tmp_path / "diff")["score.weight"], tensors(tmp_path / "rm")["score.weight"])
    recover(tmp_path / "diff", raw, tmp_path / "again")
    assert_equal(tensors(tmp_path / "again"), tensors(tmp_path / "rm"))


def test_another_raw_model_is_found_by_the_checksum(raw: Path, tmp_path: Path) -> None:
    model = tuned(raw, tmp_path / "tuned")
    write_difference(model, raw, tmp_path / "diff")
    other = tuned(raw, tmp_path / "other", shift=0.5)
    with pytest.raises(WeightError, match="is not the model that the difference was made of"):
        recover(tmp_path / "diff", other, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_unlike_models_are_refused_in_one_sentence(raw: Path, tmp_path: Path) -> None:
    make_preset("tiny", build_tokenizer(), 0, tmp_path / "tiny")
    with pytest.raises(InputError, match=r"is \(494, 192\) in .*tiny, but \(494, 128\) in"):
        write_difference(tmp_path / "tiny", raw, tmp_path / "diff")
    model = tuned(raw, tmp_path / "tuned")
    text = (model / "tokenizer.json").read_text().replace('"winter"', '"sommer"')
    (model / "tokenizer.json").write_text(text)
    with pytest.raises(InputError, match="have different tokenizers; name the raw model"):
        write_difference(model, raw, tmp_path / "diff")
    assert not (tmp_path / "diff").exists()
