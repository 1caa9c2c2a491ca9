from __future__ import annotations

import torch

from rayalign.config import LearnerConfig
from rayalign.models.load import Frozen
from tests.models.conftest import make_batch, make_learner


def test_reading_changes_no_weight_and_no_answer(folder: str) -> None:
    model = Frozen(folder, "causal", LearnerConfig(micro_tokens=30), temperature=0.8)
    before = [p.clone() for p in model._head.parameters()]
    first, second = model.evaluate(make_batch()), model.evaluate(make_batch())
    assert torch.equal(first.logprobs_BT, second.logprobs_BT)
    assert all(torch.equal(p, q) for p, q in zip(before, model._head.parameters(), strict=True))


def test_it_reads_at_the_temperature_of_the_policy(folder: str) -> None:
    reference_BT = Frozen(folder, "causal", LearnerConfig(), temperature=0.7).evaluate(make_batch()).logprobs_BT
    policy_BT = make_learner(folder, temperature=0.7).evaluate(make_batch()).logprobs_BT
    torch.testing.assert_close(reference_BT, policy_BT, atol=1e-6, rtol=0)


def test_a_scalar_model_gives_values_and_scores(folder: str) -> None:
    batch = make_batch()
    outputs = Frozen(folder, "scalar", LearnerConfig()).evaluate(batch)
    assert outputs.logprobs_BT is None
    assert outputs.scores_B.shape == (len(batch),)
    assert outputs.values_BT.shape == batch["input_ids_BT"].shape


def test_it_answers_as_before_once_it_is_back_from_host_memory(folder: str) -> None:
    model = Frozen(folder, "causal", LearnerConfig())
    before = model.evaluate(make_batch()).logprobs_BT
    model.offload()
    model.reload()
    assert torch.equal(model.evaluate(make_batch()).logprobs_BT, before)
