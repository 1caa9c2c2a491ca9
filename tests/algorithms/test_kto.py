import math

import pytest
import torch

from rayalign.algorithms import preference
from rayalign.algorithms.base import load
from rayalign.types import Outputs, Rollouts

NAN = math.nan
LENGTHS = (3, 2, 4, 1, 2, 3)


def rollouts(desirable=(1, NAN, 0, NAN, 0.75, NAN), poison: float = 0.0, dtype=torch.float64) -> Rollouts:
    """Three answers, each with one to another prompt behind it; the prompts have two tokens.

    Log-ratios by the model before the step: 1 a token of the answers, -1, 3 and 1 a token of those behind them.
    """
    place = torch.arange(6)[None, :]
    attention_BT = (place < torch.tensor(LENGTHS)[:, None] + 2).long()
    mask_BT = attention_BT * (place >= 2)
    ratios_B1 = torch.tensor([[1.0], [-1], [1], [3], [1], [1]], dtype=dtype)
    reference_BT = torch.full((6, 6), -2.0, dtype=dtype)
    return Rollouts(
        input_ids_BT=torch.ones(6, 6, dtype=torch.long),
        attention_mask_BT=attention_BT,
        policy_mask_BT=mask_BT,
        group_B=torch.tensor([4, 4, 5, 5, 7, 7]),
        desirable_B=torch.tensor(desirable, dtype=dtype),
        logprobs_BT=(reference_BT + ratios_B1).masked_fill(mask_BT == 0, poison),
        reference_logprobs_BT=reference_BT.masked_fill(mask_BT == 0, poison),
    )


def outputs(mask_BT, poison: float = 0.0) -> Outputs:
    """Log-ratios 0.5, -0.5 and 0 a token, so 1.5, -2 and 0."""
    each_B1 = torch.tensor([[-1.5], [-2.5], [-2.0]], dtype=torch.float64)
    return Outputs(logprobs_BT=each_B1.expand(3, 6).masked_fill(mask_BT == 0, poison).requires_grad_())


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


# mismatched: the mean of -1 x 2, 3 x 1 and 1 x 3 is 4 / 3
# opposite: the answers' ratios are 3, 4, 2, with weights 0, 1, 1/4 and 1, 0, 3/4
ESTIMATES = {"mismatched": (4 / 3, 4 / 3), "opposite": (4.5 / 1.25, 4.5 / 1.75)}


@pytest.mark.parametrize("kl", ESTIMATES)
def test_loss_by_hand(kl):
    algorithm = load({"name": "kto", "beta": 0.5, "undesirable_weight": 2.0, "kl": kl})
    batch = algorithm.prepare(rollouts())
    loss = algorithm.loss("policy", outputs(batch["policy_mask_BT"]), batch)
    good, bad = ESTIMATES[kl]
    by_hand = 1 - sigmoid((1.5 - good) / 2)
    by_hand += 2 * (1 - sigmoid((bad + 2) / 2))
    by_hand += 0.75 * (1 - sigmoid(-good / 2)) + 0.25 * 2 * (1 - sigmoid(bad / 2))
    assert loss.numerator.item() == pytest.approx(by_hand)
    assert loss.normaliser == algorithm.normaliser("policy", batch) == 3
    assert {name: (metric.value, metric.weight) for name, metric in loss.metrics.items()} == {
        "loss/policy": (pytest.approx(by_hand / 3), 3),
        "kto/kl": (pytest.approx((good + bad) / 2), 3),
        "kto/desirable_reward": (pytest.approx(0.5 * 1.5 / 1.75), 1.75),
        "kto/undesirable_reward": (pytest.approx(0.5 * -2 / 1.25), 1.25),
    }
    assert loss.metrics.keys() == algorithm.metrics


def test_it_is_the_loss_of_the_preference_room():
    algorithm = load({"name": "kto", "undesirable_weight": 2.0})
    batch = algorithm.prepare(rollouts((1, NAN, 0, NAN, 1, NAN)))
    loss = algorithm.loss("policy", outputs(batch["policy_mask_BT"]), batch)
    sums, reference = torch.tensor([1.5, -2, 0]) - 9, torch.full((3,), -9.0)
    foreign = torch.tensor([-2.0, 3, 3])
    values = preference.kto_loss(
        sums, reference, torch.tensor([True, False, True]), foreign, torch.zeros(3), beta=0.1, undesirable_weight=2.0
    )
    assert loss.numerator.item() == pytest.approx(values.sum().item(), abs=1e-6)


def test_opposite_estimates_are_those_of_pairs():
    algorithm = load({"name": "kto", "kl": "opposite"})
    inputs = rollouts((1, 0, 1, 0, 1, 0))
    batch = algorithm.prepare(inputs)
    policy = Outputs(logprobs_BT=inputs.logprobs_BT)
    loss = algorithm.loss("policy", policy, batch)
    sums = (inputs.logprobs_BT * inputs.policy_mask_BT).sum(1)
    reference = (inputs.reference_logprobs_BT * inputs.policy_mask_BT).sum(1)
    values = preference.kto_pair_loss(sums[::2], sums[1::2], reference[::2], reference[1::2], beta=0.1)
    assert loss.numerator.item() == pytest.approx(values.sum().item())


def test_the_estimate_is_never_below_zero():
    inputs = rollouts()
    inputs.logprobs_BT = inputs.reference_logprobs_BT - 1
    batch = load({"name": "kto"}).prepare(inputs)
    assert batch["good_kl_B"].tolist() == batch["bad_kl_B"].tolist() == [0, 0, 0]


def test_without_one_kind_of_answer_the_opposite_estimate_is_zero():
    batch = load({"name": "kto", "kl": "opposite"}).prepare(rollouts((1,) * 6))
    assert batch["good_kl_B"].tolist() == [0] * 6
    assert batch["bad_kl_B"][0] > 0


@pytest.mark.parametrize("kl", ESTIMATES)
def test_only_rows_that_the_estimate_reads_are_measured(kl):
    algorithm, inputs = load({"name": "kto", "kl": kl}), rollouts()
    whole = algorithm.prepare(inputs)
    measured_B = algorithm.measured_rows(inputs)
    assert measured_B.tolist() == [kl == "opposite", kl == "mismatched"] * 3
    inputs.logprobs_BT = inputs.logprobs_BT.masked_fill(~measured_B[:, None], 0.0)
    part = algorithm.prepare(inputs)
    assert all(torch.equal(part[name], tensor) for name, tensor in whole.tensors.items())


@pytest.mark.parametrize("kl", ESTIMATES)
def test_neither_split_nor_order_nor_padding_changes_the_gradient(kl):
    algorithm = load({"name": "kto", "kl": kl})
    clean = algorithm.prepare(rollouts())
    policy = outputs(clean["policy_mask_BT"])
    expected = torch.autograd.grad(algorithm.loss("policy", policy, clean).numerator, policy.logprobs_BT)[0]
    batch = algorithm.prepare(rollouts(poison=NAN))
    policy = outputs(batch["policy_mask_BT"], NAN)
    total = 0.0
    for rows in (torch.tensor([2, 0]), torch.tensor([1])):
        part = Outputs(logprobs_BT=policy.logprobs_BT[rows])
        total = total + algorithm.loss("policy", part, batch.rows(rows)).numerator
    gradient = torch.autograd.grad(total, policy.logprobs_BT)[0]
    torch.testing.assert_close(gradient, expected)
    assert (gradient[0] != 0).tolist() == batch["policy_mask_BT"][0].bool().tolist()


def test_no_answer_costs_nothing():
    algorithm = load({"name": "kto"})
    batch = algorithm.prepare(rollouts()).rows(torch.empty(0, dtype=torch.long))
    loss = algorithm.loss("policy", Outputs(logprobs_BT=torch.zeros(0, 6)), batch)
    assert (loss.numerator.item(), loss.normaliser) == (0.0, 0.0)
