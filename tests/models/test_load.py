from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from rayalign.config import LearnerConfig
from rayalign.errors import InputError
from rayalign.models.classifier import Classifier
from rayalign.models.configuration import reads_pairs
from rayalign.models.load import load_causal, load_head, load_scalar, make_preset
from rayalign.models.verify import verify_saved

CONFIG = LearnerConfig()


def test_a_preset_is_decided_by_its_seed(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_preset("nano", tokenizer, seed, tmp_path / name)
    assert torch.equal(state, torch.get_rng_state())
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert model.config.vocab_size == len(tokenizer)
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    assert model.config.eos_token_id == tokenizer.eos_token_id


def test_an_unknown_preset_names_the_known_ones(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="known: pico, nano"):
        make_preset("mini", tokenizer, 0, tmp_path)


def test_dropout_is_off_and_the_model_evaluates(folder: str) -> None:
    model = load_causal(folder, CONFIG)
    assert model.config.attention_dropout == 0.0
    assert not model.training


def test_precision_is_that_of_the_section(folder: str) -> None:
    assert load_causal(folder, LearnerConfig(precision="bf16")).dtype == torch.bfloat16


def test_a_critic_starts_at_zero_on_the_causal_body(folder: str) -> None:
    model = load_scalar(folder, CONFIG, 0, "zero")
    assert not model.score.weight.any()
    body = load_causal(folder, CONFIG).model.state_dict()
    torch.testing.assert_close(model.model.state_dict(), body)


def test_a_reward_head_has_the_deviation_of_its_width(folder: str) -> None:
    weights = torch.cat([load_scalar(folder, CONFIG, seed).score.weight[0] for seed in range(10)])
    assert weights.std().item() == pytest.approx(33**-0.5, rel=0.15)
    assert torch.equal(load_scalar(folder, CONFIG, 3).score.weight, load_scalar(folder, CONFIG, 3).score.weight)


def test_a_scalar_folder_is_taken_as_it_is(folder: str, tmp_path: Path) -> None:
    model = load_scalar(folder, CONFIG, 5)
    model.save_pretrained(tmp_path)
    again = load_scalar(str(tmp_path), CONFIG, 6, "zero")
    torch.testing.assert_close(again.state_dict(), model.state_dict())


def test_a_classifier_is_refused(folder: str, tmp_path: Path) -> None:
    AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="3 outputs"):
        load_scalar(str(tmp_path), CONFIG, 0)


def test_a_checkpoint_of_another_kind_is_not_filled_at_random(folder: str, tmp_path: Path) -> None:
    scalar, causal = tmp_path / "scalar", tmp_path / "causal"
    load_scalar(folder, CONFIG, 5).save_pretrained(scalar)
    with pytest.raises(InputError, match=r"lack lm_head\.weight"):
        load_causal(str(scalar), CONFIG)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.config.num_labels = 1
    model.save_pretrained(causal)
    AutoTokenizer.from_pretrained(folder).save_pretrained(causal)
    with pytest.raises(InputError, match=r"lack score\.weight"):
        Classifier(str(causal), context=64)


def test_a_model_that_compares_says_so_and_scores_no_single_answer(folder: str, tmp_path: Path) -> None:
    load_scalar(folder, CONFIG, 5, pairwise=True).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert reads_pairs(str(tmp_path)) and not reads_pairs(folder)
    again = load_scalar(str(tmp_path), CONFIG, 6, pairwise=True)
    torch.testing.assert_close(again.state_dict(), load_scalar(folder, CONFIG, 5).state_dict())
    for initial in ("reward", "zero"):
        with pytest.raises(
            InputError, match="it compares two answers, so it scores no single one and starts no critic"
        ):
            load_scalar(str(tmp_path), CONFIG, 0, initial)
    with pytest.raises(InputError, match="it compares two answers; name one that scores single answers"):
        Classifier(str(tmp_path), context=64)


def test_a_missing_model_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"hf download nobody/nothing"):
        load_causal("nobody/nothing", CONFIG)


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be loaded from this folder"):
        load_causal(str(tmp_path), CONFIG)


def test_flash_that_is_not_there_is_refused(folder: str) -> None:
    with pytest.raises(InputError, match="set attention to auto or sdpa"):
        load_head(folder, "causal", LearnerConfig(attention="flash"), temperature=1.0, seed=0, initial="reward")


def _refuse_the_cpu(module: torch.nn.Module, query: torch.Tensor, *_: object, **__: object) -> None:
    raise RuntimeError(f"this kernel does not run on {query.device.type}")


def test_a_kernel_for_gpus_alone_is_set_after_the_proof_on_the_cpu(folder: str) -> None:
    AttentionInterface.register("for_gpus_alone", _refuse_the_cpu)
    head = load_head(folder, "causal", CONFIG, temperature=1.0, seed=0, initial="reward", kernel="for_gpus_alone")
    ids_BT = torch.tensor([[4, 5, 6]])
    with pytest.raises(RuntimeError, match="does not run on cpu"):
        head(ids_BT, torch.ones_like(ids_BT), torch.ones_like(ids_BT))


def test_a_written_folder_is_opened_again(folder: str, tmp_path: Path) -> None:
    verify_saved(folder)
    scalar, tied = tmp_path / "scalar", tmp_path / "tied"
    load_scalar(folder, CONFIG, 5).save_pretrained(scalar)
    AutoTokenizer.from_pretrained(folder).save_pretrained(scalar)
    verify_saved(scalar)
    model = AutoModelForCausalLM.from_pretrained(folder, tie_word_embeddings=True)
    model.save_pretrained(tied)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tied)
    verify_saved(tied)


def test_a_written_folder_that_nobody_can_open_is_refused(folder: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    model.config.pad_token_id = model.config.vocab_size
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="cannot be opened again .*[Pp]adding_idx"):
        verify_saved(tmp_path)
    model.config.pad_token_id = None
    model.config.num_hidden_layers = 3
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"layers\.2\..* is missing, not \("):
        verify_saved(tmp_path)
