from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from rayalign.algorithms.quark import Quark, QuarkConfig
from rayalign.config import LearnerConfig, LoraConfig
from rayalign.models.exact_kl import FrozenReference, WithoutAdapter, reference_of
from rayalign.models.heads import TokenLogprobs
from rayalign.models.load import load_causal
from rayalign.models.lora import add_adapter
from rayalign.types import Batch
from tests.models.conftest import make_batch, make_learner, settings, weights

CPU = torch.device("cpu")
QUARK = Quark(QuarkConfig(name="quark", kl_coefficient=2.0))


@pytest.fixture(scope="module")
def moved(folder: str, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model of `folder` with other weights."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.8)
    path = tmp_path_factory.mktemp("moved")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def head(folder: str, chunk_logits: int = 1 << 20) -> TokenLogprobs:
    return TokenLogprobs(load_causal(folder, LearnerConfig()), 0.7, chunk_logits).train()  # without dropout


def arguments(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return batch["input_ids_BT"], batch["attention_mask_BT"], batch["policy_mask_BT"]


@pytest.mark.parametrize("chunk_logits", [1 << 20, 200])
def test_value_and_gradient_are_those_of_the_full_distributions(folder: str, moved: str, chunk_logits: int) -> None:
    policy, batch = head(folder, chunk_logits), make_batch()
    policy.reference = FrozenReference(head(moved), CPU)
    _, _, kl_BT = policy(*arguments(batch))
    plain = AutoModelForCausalLM.from_pretrained(folder)
    ours_BTV = (plain(input_ids=batch["input_ids_BT"]).logits / 0.7).log_softmax(dim=-1)[:, :-1]
    theirs = AutoModelForCausalLM.from_pretrained(moved)
    theirs_BTV = (theirs(input_ids=batch["input_ids_BT"]).logits.detach() / 0.7).log_softmax(dim=-1)[:, :-1]
    expected_BT = (ours_BTV.exp() * (ours_BTV - theirs_BTV)).sum(dim=-1) * batch["policy_mask_BT"][:, 1:]
    torch.testing.assert_close(kl_BT[:, 1:], expected_BT, atol=1e-5, rtol=1e-4)
    assert not kl_BT[batch["policy_mask_BT"] == 0].any() and kl_BT.max() > 0.01
    kl_BT.sum().backward()
    expected_BT.sum().backward()
    for own, other in zip(policy.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, atol=1e-4, rtol=1e-3)


def test_only_training_measures_it(folder: str, moved: str) -> None:
    policy = head(folder)
    policy.reference = reference_of(policy, moved, LearnerConfig(), CPU)
    parameters = sum(p.numel() for p in policy.parameters())
    assert parameters == sum(p.numel() for p in head(folder).parameters())  # the reference's are nobody's
    assert len(policy(*arguments(make_batch()))) == 3
    assert len(policy.eval()(*arguments(make_batch()))) == 2


def test_a_policy_with_an_adapter_is_compared_with_itself_without(folder: str) -> None:
    policy, batch = head(folder), make_batch()
    add_adapter(policy.model, LoraConfig(rank=2), seed=0)
    policy.reference = reference_of(policy, None, LearnerConfig(), CPU)
    assert isinstance(policy.reference, WithoutAdapter)
    assert policy(*arguments(batch))[2].abs().max() < 1e-6  # a fresh adapter changes nothing
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if name.endswith("lora_B"):
                parameter.add_(0.3)
    assert policy(*arguments(batch))[2].max() > 1e-3


def test_an_update_is_drawn_to_the_reference_however_it_is_cut(folder: str, moved: str) -> None:
    updated = []
    for micro_tokens in (4096, 60):
        learner = make_learner(folder, settings(micro_tokens=micro_tokens, minibatch=12))
        learner.hold_reference(moved)
        metrics = learner.update(make_batch(), QUARK, pass_index=0, seed=3)
        assert metrics[0]["kl/reference"].value > 0.01
        updated.append(weights(learner))
        learner.close()
    torch.testing.assert_close(updated[0], updated[1], atol=1e-5, rtol=0)


def test_a_saved_policy_holds_no_reference(folder: str, moved: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path):
    learner = make_learner(folder)
    learner.hold_reference(moved)
    learner.save(tmp_path / "out", tokenizer)
    names = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict().keys()
    assert names == AutoModelForCausalLM.from_pretrained(folder).state_dict().keys()
