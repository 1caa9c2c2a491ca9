import math

import pytest
import torch

from rayalign.algorithms.base import load
from rayalign.types import Outputs, Rollouts


def small() -> Rollouts:
    """Two answers to one prompt, of two tokens and one; the reference gives each token e ** 0.5 times less."""
    mask = torch.tensor([[0, 1, 1], [0, 1, 0]])
    logprobs = torch.tensor([[0, -1.0, -2.0], [0, -3.0, 0]], dtype=torch.float64)
    rollouts = Rollouts(mask, mask, mask, torch.tensor([3, 3]), torch.tensor([4.0, 1.0]).double())
    rollouts.logprobs_BT = rollouts.behaviour_logprobs_BT = logprobs
    rollouts.reference_logprobs_BT = logprobs - 0.5
    return rollouts


def whitened(*returns: float) -> list[float]:
    mean = sum(returns) / len(returns)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in returns) / (len(returns) - 1))
    return [(x - mean) / deviation for x in returns]


def advantages(**settings: object) -> list[float]:
    rollouts = small()
    batch = load({"name": "reinforce_pp", **settings}).prepare(rollouts)
    outside = batch["advantages_BT"][~rollouts.policy_mask_BT.bool()]
    assert not outside.any()
    return batch["advantages_BT"][rollouts.policy_mask_BT.bool()].tolist()


def test_a_token_has_the_score_less_the_kl_from_it_on_normalised_over_all_tokens() -> None:
    # rewards -1, 4 - 1 and 1 - 1: returns 2, 3 and 0
    assert advantages(kl_coefficient=2.0) == pytest.approx(whitened(2.0, 3.0, 0.0))


def test_without_kl_all_tokens_of_an_answer_are_alike() -> None:
    assert advantages(kl_coefficient=0.0) == pytest.approx(whitened(4.0, 4.0, 1.0))


def test_a_baseline_is_the_mean_of_the_group() -> None:
    assert advantages(kl_coefficient=0.0, baseline=True) == pytest.approx(whitened(1.5, 1.5, -1.5))


def test_returns_are_discounted_and_scores_clipped() -> None:
    assert advantages(kl_coefficient=0.0, gamma=0.5, score_clip=2.0) == pytest.approx(whitened(1.0, 2.0, 1.0))


def test_scores_are_clipped_below_0_too() -> None:
    rollouts = small()
    rollouts.scores_B = torch.tensor([1.0, -4.0]).double()
    settings = {"name": "reinforce_pp", "kl_coefficient": 0.0, "gamma": 0.5, "score_clip": 2.0}
    batch = load(settings).prepare(rollouts)
    assert batch["advantages_BT"][rollouts.policy_mask_BT.bool()].tolist() == pytest.approx(whitened(0.5, 1.0, -2.0))


def test_the_objective_is_clipped_token_by_token() -> None:
    algorithm = load({"name": "reinforce_pp", "kl_coefficient": 0.0})
    batch = algorithm.prepare(small())
    outputs = Outputs(logprobs_BT=batch["logprobs_BT"] + math.log(1.5) * batch["policy_mask_BT"])
    loss = algorithm.loss("policy", outputs, batch)
    first, second, third = whitened(4.0, 4.0, 1.0)
    assert loss.numerator.item() == pytest.approx(-1.2 * first - 1.2 * second - 1.5 * third)
    assert loss.normaliser == 3


@pytest.mark.parametrize(("baseline", "candidates"), [(False, 1), (True, 2)])
def test_there_is_no_critic(baseline: bool, candidates: int) -> None:
    algorithm = load({"name": "reinforce_pp", "baseline": baseline})
    assert algorithm.roles == {"policy", "reward", "reference"}
    assert algorithm.fewest_candidates == candidates
