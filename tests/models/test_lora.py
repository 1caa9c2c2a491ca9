from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from rayalign.config import LearnerConfig, LoraConfig
from rayalign.errors import InputError
from rayalign.models.load import Frozen
from rayalign.models.lora import LoraLinear, adapter_off, add_adapter
from tests.models.conftest import make_batch, make_learner, settings, train, weights

LORA = {"rank": 4, "alpha": 8.0, "targets": ["q_proj", "v_proj", "down_proj"]}


def small_layer() -> LoraLinear:
    """2 inputs, 2 outputs, rank 1, alpha 3."""
    linear = nn.Linear(2, 2)
    layer = LoraLinear(linear, LoraConfig(rank=1, alpha=3.0), torch.Generator())
    layer.weight.data = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    layer.bias.data = torch.tensor([0.5, 0.0])
    layer.lora_A.data = torch.tensor([[1.0, -1.0]])
    layer.lora_B.data = torch.tensor([[2.0], [1.0]])
    return layer


def test_a_layer_adds_the_scaled_product_of_its_factors() -> None:
    # x = (3, 1): W x + b = (5.5, 1); A x = 2; alpha / rank * B A x = 3 * (4, 2) = (12, 6)
    assert small_layer()(torch.tensor([3.0, 1.0])).tolist() == [17.5, 7.0]


def test_merged_weights_compute_the_same_without_an_adapter() -> None:
    # W + 3 * B A = [[1 + 6, 2 - 6], [0 + 3, 1 - 3]]
    assert small_layer().merged().tolist() == [[7.0, -4.0], [3.0, -2.0]]


def test_without_its_adapter_a_layer_is_what_it_was() -> None:
    layer = small_layer()
    with adapter_off(nn.Sequential(layer)):
        assert layer(torch.tensor([3.0, 1.0])).tolist() == [5.5, 1.0]
    assert layer(torch.tensor([3.0, 1.0])).tolist() == [17.5, 7.0]


def test_a_fresh_adapter_changes_nothing_and_depends_on_the_seed_alone(folder: str) -> None:
    models = [AutoModelForCausalLM.from_pretrained(folder) for _ in range(4)]
    for model, seed in zip(models[1:], (1, 1, 2), strict=True):
        add_adapter(model, LoraConfig.model_validate(LORA), seed)
    ids_BT = torch.arange(12).view(2, 6)
    assert torch.equal(models[0](ids_BT).logits, models[1](ids_BT).logits)
    factors = [model.model.layers[1].self_attn.q_proj.lora_A for model in models[1:]]
    assert torch.equal(factors[0], factors[1])
    assert not torch.equal(factors[0], factors[2])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj", "w_pack"], "no linear layer is named w_pack; this model has down_proj, gate_proj, k_proj"),
        (["lm_head"], "lm_head is the model's head, which gets no adapter"),
    ],
)
def test_targets_that_cannot_be_are_refused(folder: str, targets: list[str], message: str) -> None:
    config = LoraConfig.model_validate({**LORA, "targets": targets})
    with pytest.raises(InputError, match=message):
        add_adapter(AutoModelForCausalLM.from_pretrained(folder), config, 0)


def test_only_the_adapter_is_trained(folder: str) -> None:
    learner = make_learner(folder, settings(lora=LORA))
    before = {name: tensor.clone() for name, tensor in learner.weights(0, "base").tensors}
    losses = [step["loss/toy"].value for step in train(learner, passes=6)]
    assert losses[-1] < losses[0] - 0.1
    after = dict(learner.weights(0, "base").tensors)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    merged = weights(learner)
    changed = {name.split(".")[-2] for name, tensor in merged.items() if not torch.equal(tensor, before[name])}
    assert changed == {"q_proj", "v_proj", "down_proj"}


def test_the_reference_is_the_policy_without_its_adapter(folder: str) -> None:
    learner = make_learner(folder, settings(lora=LORA))
    train(learner, passes=3)
    batch = make_batch()
    frozen_BT = Frozen(folder, "causal", LearnerConfig()).evaluate(batch).logprobs_BT
    policy_BT = learner.evaluate(batch).logprobs_BT
    reference_BT = learner.evaluate(batch, adapter=False).logprobs_BT
    torch.testing.assert_close(reference_BT, frozen_BT, atol=1e-6, rtol=0)
    assert (policy_BT - reference_BT).abs().max() > 0.1
    torch.testing.assert_close(learner.evaluate(batch).logprobs_BT, policy_BT, atol=0, rtol=0)


@pytest.mark.parametrize("zero_stage", [0, 1])
def test_a_checkpoint_without_frozen_weights_goes_on_bit_by_bit(folder: str, tmp_path: Path, zero_stage: int) -> None:
    learner = make_learner(folder, settings(lora=LORA, zero_stage=zero_stage))
    train(learner)
    learner.save_state(tmp_path)
    train(learner)
    expected = weights(learner)
    resumed = make_learner(folder, settings(lora=LORA, zero_stage=zero_stage))
    resumed.load_state(tmp_path)
    train(resumed)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(resumed).items())


def test_the_folder_is_the_merged_model_and_holds_the_adapter_in_pefts_form(
    folder: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    learner = make_learner(folder, settings(lora=LORA))
    train(learner, passes=2)
    learner.save(tmp_path, tokenizer)
    batch = make_batch()
    merged_BT = Frozen(str(tmp_path), "causal", LearnerConfig()).evaluate(batch).logprobs_BT
    torch.testing.assert_close(merged_BT, learner.evaluate(batch).logprobs_BT, atol=1e-5, rtol=0)

    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["r"], config["lora_alpha"]) == ("LORA", "CAUSAL_LM", 4, 8)
    assert config["base_model_name_or_path"] == folder
    assert config["target_modules"] == ["down_proj", "q_proj", "v_proj"]
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(tensors) == 2 * 3 * 2  # layers, targets, factors
    layer = "model.layers.1.self_attn.q_proj"
    factor_a, factor_b = (tensors[f"base_model.model.{layer}.lora_{x}.weight"] for x in "AB")
    assert factor_a.shape == (4, 32) and factor_b.shape == (32, 4)
    base = dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())[f"{layer}.weight"]
    saved = dict(AutoModelForCausalLM.from_pretrained(tmp_path).named_parameters())[f"{layer}.weight"]
    torch.testing.assert_close(saved, base + 8 / 4 * factor_b @ factor_a, atol=1e-6, rtol=0)


def test_a_scalar_head_is_trained_whole_beside_the_adapter(
    folder: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    config = settings(learning_rate=0.02, eps=1e-6, betas=(0.9, 0.95), lora=LORA)
    learner = make_learner(folder, config, head="scalar", role="critic", initial="zero")
    losses = [step["loss/toy"].value for step in train(learner, passes=20)]
    assert losses[-1] < 0.8 * losses[0]
    learner.save(tmp_path, tokenizer)
    batch = make_batch()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    own_B1 = model(input_ids=batch["input_ids_BT"], attention_mask=batch["attention_mask_BT"]).logits
    torch.testing.assert_close(learner.evaluate(batch).scores_B, own_B1[:, 0].detach(), atol=1e-5, rtol=0)
    settings_of_adapter = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (settings_of_adapter["task_type"], settings_of_adapter["modules_to_save"]) == ("SEQ_CLS", ["score"])
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    torch.testing.assert_close(tensors["base_model.model.score.weight"], model.score.weight.detach(), atol=0, rtol=0)


PEFT = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, folder = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder + "/adapter").eval()
batch = torch.load(folder + "/batch.pt")
torch.save(model(**batch).logits.detach(), folder + "/logits.pt")
"""


def test_peft_loads_the_adapter(folder: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """peft itself, in a process of its own, since it stands beside the packages of .venv and not among them."""
    learner = make_learner(folder, settings(lora=LORA))
    train(learner, passes=2)
    learner.save(tmp_path, tokenizer)
    batch = make_batch()
    inputs = {"input_ids": batch["input_ids_BT"], "attention_mask": batch["attention_mask_BT"]}
    torch.save(inputs, tmp_path / "batch.pt")
    environment = {**os.environ, "PYTHONPATH": str(Path(sys.prefix) / "clients")}
    subprocess.run([sys.executable, "-c", PEFT, folder, tmp_path], env=environment, check=True, timeout=300)
    logits_BTV = torch.load(tmp_path / "logits.pt")
    logprobs_BT = logits_BTV[:, :-1].log_softmax(-1).gather(-1, batch["input_ids_BT"][:, 1:, None])[..., 0]
    mask_BT = batch["policy_mask_BT"][:, 1:].bool()
    own_BT = learner.evaluate(batch).logprobs_BT
    assert own_BT is not None
    torch.testing.assert_close(own_BT[:, 1:][mask_BT], logprobs_BT[mask_BT], atol=1e-5, rtol=0)
