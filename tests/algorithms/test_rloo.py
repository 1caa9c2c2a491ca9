import math

import pytest
import torch

from rayalign.algorithms.base import load
from rayalign.types import Outputs, Rollouts


def small(kl: float = 0.5) -> Rollouts:
    """A group of three answers of two tokens, one and two; the reference gives each token e ** kl times less."""
    mask = torch.tensor([[0, 1, 1], [0, 1, 0], [0, 1, 1]])
    logprobs = torch.tensor([[0, -1.0, -2.0], [0, -3.0, 0], [0, -1.0, -1.0]], dtype=torch.float64)
    rollouts = Rollouts(mask, mask, mask, torch.tensor([3, 3, 3]), torch.tensor([4.0, 1.0, 1.0]).double())
    rollouts.logprobs_BT = rollouts.behaviour_logprobs_BT = logprobs
    rollouts.reference_logprobs_BT = logprobs - kl
    return rollouts


def test_the_baseline_is_the_mean_of_the_others():
    batch = load({"name": "rloo", "kl_coefficient": 0.0}).prepare(small())
    assert batch["advantages_BT"].tolist() == [[0, 3, 3], [0, -1.5, 0], [0, -1.5, -1.5]]


def test_the_kl_of_the_whole_answer_is_taken_off_its_score():
    batch = load({"name": "rloo", "kl_coefficient": 2.0}).prepare(small())
    # rewards 4 - 2, 1 - 1 and 1 - 2
    expected = torch.tensor([[0, 2.5, 2.5], [0, -0.5, 0], [0, -2.0, -2.0]]).double()
    torch.testing.assert_close(batch["advantages_BT"], expected)
    assert batch.metrics["kl/reference"].value == pytest.approx(2.5 / 3)


def test_the_first_gradient_is_that_of_reinforce_on_whole_answers():
    algorithm = load({"name": "rloo", "kl_coefficient": 0.0})
    batch = algorithm.prepare(small())
    logprobs = batch["logprobs_BT"].clone().requires_grad_()
    loss = algorithm.loss("policy", Outputs(logprobs_BT=logprobs), batch)
    (gradient,) = torch.autograd.grad(loss.numerator / loss.normaliser, logprobs)
    torch.testing.assert_close(gradient, -batch["advantages_BT"] / 3)


def test_the_ratio_is_that_of_the_whole_answer_and_is_clipped():
    algorithm = load({"name": "rloo", "kl_coefficient": 0.0})
    batch = algorithm.prepare(small())
    change = torch.tensor([[0, math.log(2), math.log(3)], [0, math.log(1.1), 0], [0, math.log(0.5), math.log(0.5)]])
    outputs = Outputs(logprobs_BT=batch["logprobs_BT"] + change)
    loss = algorithm.loss("policy", outputs, batch)
    # ratios 6, 1.1 and 0.25
    assert loss.numerator.item() == pytest.approx(-3 * 1.2 + 1.5 * 1.1 + 1.5 * 0.8)
    assert loss.metrics["policy/ratio_max"].value == pytest.approx(6.0)
    assert loss.metrics["policy/clip_fraction"].value == pytest.approx(4 / 5)
    free = load({"name": "rloo", "kl_coefficient": 0.0, "clip_low": 1.0, "clip_high": 1e9})
    assert free.loss("policy", outputs, batch).numerator.item() == pytest.approx(-3 * 6 + 1.5 * 1.1 + 1.5 * 0.25)


def test_there_is_no_critic():
    algorithm = load({"name": "rloo"})
    assert algorithm.roles == {"policy", "reward", "reference"} and "values" not in algorithm.needs
