import math

import pytest
import torch

from rayalign.algorithms.base import load
from rayalign.types import Outputs, Rollouts

LOG2 = math.log(2)


def small() -> Rollouts:
    """A group of two answers, of two tokens and one, then a group of one whose answer cannot be better than others."""
    mask = torch.tensor([[0, 1, 1], [0, 1, 0], [0, 1, 1]])
    logprobs = torch.tensor([[0, -1.0, -2.0], [0, -3.0, 0], [0, -1.0, -1.0]], dtype=torch.float64)
    rollouts = Rollouts(mask, mask, mask, torch.tensor([4, 4, 7]), torch.tensor([5.0, 1.0, 9.0]).double())
    rollouts.logprobs_BT = rollouts.behaviour_logprobs_BT = logprobs
    rollouts.reference_logprobs_BT = logprobs + LOG2 * mask
    return rollouts


def test_advantages_are_scores_relative_to_the_group():
    batch = load({"name": "grpo"}).prepare(small())
    deviation = math.sqrt(8)  # of 5 and 1, over n - 1
    expected = torch.tensor([[0, 2, 2], [0, -2, 0], [0, 0, 0]]).double() / deviation
    torch.testing.assert_close(batch["advantages_BT"], expected, rtol=1e-6, atol=0)
    assert batch.metrics["reward/zero_variance"].value == 0.5
    # k1 of each token is -log 2; 2, 1 and 2 of them in three answers
    assert batch.metrics["kl/reference"].value == pytest.approx(-5 / 3 * LOG2)


def test_without_std_only_the_mean_is_taken_off():
    batch = load({"name": "grpo", "no_std": True, "score_clip": 3.0}).prepare(small())
    assert batch["advantages_BT"].tolist() == [[0, 1, 1], [0, -1, 0], [0, 0, 0]]


def test_scores_are_clipped_on_both_sides_of_0():
    rollouts = small()
    rollouts.scores_B = torch.tensor([-5.0, 1.0, 9.0]).double()
    batch = load({"name": "grpo", "no_std": True, "score_clip": 3.0}).prepare(rollouts)
    assert batch["advantages_BT"].tolist() == [[0, -2, -2], [0, 2, 0], [0, 0, 0]]


def loss_of(new_ratio: float, **settings) -> float:
    """The loss of the batch at one ratio current / proximal for all tokens."""
    algorithm = load({"name": "grpo", "no_std": True, **settings})
    batch = algorithm.prepare(small())
    logprobs = batch["logprobs_BT"] + math.log(new_ratio) * batch["policy_mask_BT"]
    loss = algorithm.loss("policy", Outputs(logprobs_BT=logprobs), batch)
    return loss.numerator.item() / loss.normaliser


def test_each_answer_counts_alike_and_is_clipped_on_both_sides():
    # advantages 2 and -2 on two tokens and on one: the mean over answers of their token means
    assert loss_of(1.1, kl_coefficient=0.0) == pytest.approx((-2 * 1.1 + 2 * 1.1) / 3)
    assert loss_of(1.5, kl_coefficient=0.0) == pytest.approx((-2 * 1.2 + 2 * 1.5) / 3)
    assert loss_of(0.5, kl_coefficient=0.0) == pytest.approx((-2 * 0.5 + 2 * 0.8) / 3)


def test_dual_clip_bounds_the_loss_of_a_bad_answer():
    assert loss_of(9.0, kl_coefficient=0.0) == pytest.approx((-2 * 1.2 + 2 * 9) / 3)
    assert loss_of(9.0, kl_coefficient=0.0, dual_clip=3.0) == pytest.approx((-2 * 1.2 + 2 * 3) / 3)


def test_dapo_counts_tokens_and_clips_higher():
    settings = {"kl_coefficient": 0.0, "aggregation": "token-mean", "clip_high": 0.28}
    assert loss_of(1.5, **settings) == pytest.approx((2 * -2 * 1.28 + 2 * 1.5) / 5)


def test_dr_grpo_divides_by_a_constant():
    settings = {"kl_coefficient": 0.0, "aggregation": "seq-mean-token-sum-norm", "max_length": 10}
    assert loss_of(1.0, **settings) == pytest.approx((2 * -2 + 2) / 10 / 3)


def test_kl_is_a_term_of_the_loss():
    k3 = 2 - 1 - LOG2  # the reference has twice the probability
    assert loss_of(1.0, kl_coefficient=0.5) == pytest.approx(0.5 * k3)
    k3 = 4 - 1 - 2 * LOG2  # and now four times
    policy = (-2 * 0.5 + 2 * 0.8) / 3
    assert loss_of(0.5, kl_coefficient=0.5, unbiased_kl=False) == pytest.approx(policy + 0.5 * k3)
    assert loss_of(0.5, kl_coefficient=0.5) == pytest.approx(policy + 0.5 * 0.5 * k3)


def test_without_kl_there_is_no_reference():
    assert load({"name": "grpo"}).roles == {"policy", "reward", "reference"}
    assert load({"name": "grpo", "kl_coefficient": 0.0}).roles == {"policy", "reward"}
