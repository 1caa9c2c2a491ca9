from __future__ import annotations

import math

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
)

from rayalign.errors import InputError
from rayalign.models.batching import trim
from rayalign.models.heads import (
    OutputLayer,
    TokenLogprobs,
    TokenValues,
    as_outputs,
    evaluate,
)
from rayalign.types import Batch
from tests.models.conftest import make_batch


def causal(folder: str, temperature: float = 1.0, chunk_logits: int = 1 << 20) -> TokenLogprobs:
    return TokenLogprobs(AutoModelForCausalLM.from_pretrained(folder).eval(), temperature, chunk_logits)


def scalar(folder: str) -> TokenValues:
    torch.manual_seed(1)
    return TokenValues(AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval())


def padded(batch: Batch, left: int) -> Batch:
    tensors = {name: torch.nn.functional.pad(x, (left, 0)) for name, x in batch.tensors.items()}
    return Batch(tensors, batch.unit_B)


def arguments(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return batch["input_ids_BT"], batch["attention_mask_BT"], batch["policy_mask_BT"]


def test_logprobs_and_entropy_are_those_of_the_full_softmax(folder: str) -> None:
    head, batch = causal(folder, temperature=0.7), make_batch()
    with torch.no_grad():
        logprobs_BT, entropy_BT = head(*arguments(batch))
    full_BTV = (head.model(input_ids=batch["input_ids_BT"]).logits.detach() / 0.7).log_softmax(dim=-1)
    for b, t in batch["policy_mask_BT"].nonzero().tolist():
        row_V = full_BTV[b, t - 1]
        assert math.isclose(logprobs_BT[b, t], row_V[batch["input_ids_BT"][b, t]], abs_tol=1e-5)
        assert math.isclose(entropy_BT[b, t], -(row_V.exp() * row_V).sum(), abs_tol=1e-5)
    assert not logprobs_BT[batch["policy_mask_BT"] == 0].any()
    assert not entropy_BT[batch["policy_mask_BT"] == 0].any()


@pytest.mark.parametrize("chunk_logits", [1 << 20, 200])
def test_what_the_entropy_is_used_for_changes_no_logprob_and_no_gradient(folder: str, chunk_logits: int) -> None:
    head, batch = causal(folder, chunk_logits=chunk_logits), make_batch()
    weight, outputs, gradients = head.output.weight, [], []
    for use in ("gradient", "value", "none"):
        head.output.entropy = use
        readings = as_outputs(head, *head(*arguments(batch)))
        outputs.append(readings)
        gradients.append(torch.autograd.grad(readings.logprobs_BT.sum(), weight)[0])
    full, value, none = outputs
    assert full.entropy_BT.requires_grad and not value.entropy_BT.requires_grad and none.entropy_BT is None
    torch.testing.assert_close(value.entropy_BT, full.entropy_BT.detach(), rtol=0, atol=0)
    for other, gradient in zip((value, none), gradients[1:], strict=True):
        torch.testing.assert_close(other.logprobs_BT, full.logprobs_BT, rtol=0, atol=0)
        torch.testing.assert_close(gradient, gradients[0], rtol=0, atol=0)


def test_the_first_token_has_no_logprob(folder: str) -> None:
    ids_BT = torch.tensor([[5, 6]])
    logprobs_BT, _ = causal(folder)(ids_BT, torch.ones_like(ids_BT), torch.ones_like(ids_BT))
    assert logprobs_BT[0, 0] == 0.0
    assert logprobs_BT[0, 1] < 0.0


def with_absolute_positions() -> TokenLogprobs:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=40, initializer_range=0.3)
    return TokenLogprobs(GPT2LMHeadModel(config).eval())


@pytest.mark.parametrize("left", [3, 17])
@pytest.mark.parametrize("positions", ["rotary", "absolute"])
def test_left_padding_changes_nothing(folder: str, left: int, positions: str) -> None:
    head, batch = causal(folder) if positions == "rotary" else with_absolute_positions(), make_batch()
    plain_BT, _ = head(*arguments(batch))
    moved_BT, _ = head(*arguments(padded(batch, left)))
    torch.testing.assert_close(moved_BT[:, left:], plain_BT, atol=1e-5, rtol=0)
    moved_BT.sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())


def test_right_padding_and_what_stands_there_change_nothing(folder: str) -> None:
    head, batch = causal(folder), make_batch()
    row = trim(batch.rows(torch.tensor([3])))
    length = row["input_ids_BT"].shape[1]
    poisoned = batch["input_ids_BT"].clone()
    poisoned[batch["attention_mask_BT"] == 0] = 39
    together_BT, _ = head(poisoned, batch["attention_mask_BT"], batch["policy_mask_BT"])
    alone_BT, _ = head(*arguments(row))
    torch.testing.assert_close(together_BT[3:4, :length], alone_BT, atol=1e-5, rtol=0)


def test_chunks_change_neither_values_nor_gradients(folder: str) -> None:
    results = []
    for chunk in (1 << 20, 7 * 40):
        head = causal(folder, chunk_logits=chunk)
        logprobs_BT, entropy_BT = head(*arguments(make_batch()))
        (logprobs_BT + entropy_BT).sum().backward()
        results.append([logprobs_BT.detach(), *(p.grad for p in head.parameters())])
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-5)


def test_a_gpu_reads_eight_times_the_tokens_of_a_cpu_at_a_time_unless_the_job_says_how_many() -> None:
    linear = torch.nn.Linear(4, 1024)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    layer = OutputLayer(linear, None, None)
    assert (layer._chunk(cpu), layer._chunk(gpu)) == (1 << 14, 1 << 17)
    layer = OutputLayer(linear, 3 * 1024, None)
    assert (layer._chunk(cpu), layer._chunk(gpu)) == (3, 3)


def test_nothing_selected_gives_a_gradient_of_zero(folder: str) -> None:
    head, batch = causal(folder), make_batch()
    logprobs_BT, _ = head(batch["input_ids_BT"], batch["attention_mask_BT"], 0 * batch["policy_mask_BT"])
    logprobs_BT.sum().backward()
    assert not any(p.grad.any() for p in head.parameters())


def test_bf16_logits_are_normalised_in_fp32(folder: str) -> None:
    head = TokenLogprobs(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval())
    logprobs_BT, _ = head(*arguments(make_batch()))
    assert logprobs_BT.dtype == torch.float32


def test_softcapped_logits_are_the_models_own() -> None:
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    config = Gemma2Config(**sizes, num_attention_heads=2, num_key_value_heads=2, final_logit_softcapping=0.05)
    head = TokenLogprobs(Gemma2ForCausalLM(config).eval())
    head.verify("gemma")
    head.output.softcap = None
    with pytest.raises(InputError, match="scales its logits"):
        head.verify("gemma")


def test_unknown_scaling_is_refused() -> None:
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = GraniteConfig(**sizes, num_attention_heads=2, logits_scaling=8.0, initializer_range=0.5)
    with pytest.raises(InputError, match="model granite"):
        TokenLogprobs(GraniteForCausalLM(config).eval()).verify("granite")


def test_values_are_of_the_state_before_each_token(folder: str) -> None:
    head, batch = scalar(folder), make_batch()
    values_BT, scores_B = head(*arguments(batch))
    hidden_BTD = head.model.base_model(input_ids=batch["input_ids_BT"]).last_hidden_state
    after_BT = (hidden_BTD * head.model.score.weight[0]).sum(dim=-1)
    for b, length in enumerate(batch["attention_mask_BT"].sum(dim=1).tolist()):
        torch.testing.assert_close(values_BT[b, 1:length], after_BT[b, : length - 1])
        torch.testing.assert_close(scores_B[b], after_BT[b, length - 1])
        assert not values_BT[b, length:].any()
    assert not values_BT[:, 0].any()


def test_scores_are_those_that_transformers_reads(folder: str) -> None:
    head, batch = scalar(folder), make_batch()
    head.model.config.pad_token_id = 0
    own_B1 = head.model(input_ids=batch["input_ids_BT"], attention_mask=batch["attention_mask_BT"]).logits
    torch.testing.assert_close(head(*arguments(batch))[1], own_B1[:, 0])


@pytest.mark.parametrize("left", [0, 5])
def test_evaluate_puts_rows_and_columns_back(folder: str, left: int) -> None:
    batch = padded(make_batch(), left)
    for head in (causal(folder), scalar(folder)):
        with torch.no_grad():
            whole = head(*arguments(batch))
            outputs = evaluate(head, head, batch, token_budget=30)
        got = (
            [outputs.logprobs_BT, outputs.entropy_BT]
            if outputs.scores_B is None
            else [outputs.values_BT, outputs.scores_B]
        )
        torch.testing.assert_close(got, list(whole), atol=1e-5, rtol=0)
