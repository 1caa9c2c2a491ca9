from __future__ import annotations

import math

import pytest
import torch

from rayalign.algorithms.base import load
from rayalign.algorithms.quark import quantile_of, set_reward_token
from rayalign.errors import InputError
from rayalign.types import Outputs, Rollouts
from tests.algorithms.conftest import REWARD_TOKENS as TOKENS


def test_quantiles_by_hand():
    assert quantile_of(torch.tensor([8.0, 1, 7, 2, 6, 3, 5, 4]), 4).tolist() == [0, 3, 0, 3, 1, 2, 1, 2]
    assert quantile_of(torch.tensor([1.0, 1, 1]), 4).tolist() == [0, 0, 0]  # equal scores are equally good
    assert quantile_of(torch.tensor([2.0, 1, 1, 0]), 2).tolist() == [0, 0, 0, 1]


def test_the_token_in_the_prompt_becomes_that_of_the_quantile():
    ids = torch.tensor([[5, 90, 6, 7], [90, 5, 6, 90], [5, 6, 90, 7]])
    prompt = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    changed = set_reward_token(ids, prompt, torch.tensor(TOKENS), torch.tensor([0, 2, 3]))
    assert changed.tolist() == [[5, 90, 6, 7], [92, 5, 6, 90], [5, 6, 93, 7]]
    with pytest.raises(InputError, match="no reward token"):
        set_reward_token(ids, prompt * torch.tensor([[1], [0], [1]]), torch.tensor(TOKENS), torch.tensor([0, 2, 3]))


@pytest.fixture
def rollouts(make_rollouts) -> Rollouts:
    """Six answers whose prompts open with the best reward token."""
    return make_rollouts()


def test_a_batch_has_the_quantiles_of_all_its_answers(rollouts: Rollouts):
    before = rollouts.input_ids_BT.clone()
    batch = load({"name": "quark"}).prepare(rollouts)
    # scores 1, 3, 2, .5, .5, -1: two, none, one, three, three and five are higher
    assert batch["input_ids_BT"][:, 0].tolist() == [TOKENS[q] for q in (1, 0, 0, 2, 2, 3)]
    assert torch.equal(batch["input_ids_BT"][:, 1:], before[:, 1:]) and torch.equal(rollouts.input_ids_BT, before)
    assert batch.metrics["quark/best_score"].value == 2.5


def test_the_order_of_the_answers_does_not_matter(rollouts: Rollouts):
    algorithm, order = load({"name": "quark"}), torch.tensor([3, 5, 0, 4, 2, 1])
    before = algorithm.prepare(rollouts)["input_ids_BT"][order]
    for name in ("input_ids_BT", "attention_mask_BT", "policy_mask_BT", "scores_B"):
        setattr(rollouts, name, getattr(rollouts, name)[order])
    assert torch.equal(algorithm.prepare(rollouts)["input_ids_BT"], before)


def test_the_best_quantile_alone_needs_no_tokens(rollouts: Rollouts):
    algorithm = load({"name": "quark", "best_only": True})
    batch = algorithm.prepare(rollouts)
    assert algorithm.reward_tokens == 0 and load({"name": "quark"}).reward_tokens == 4
    assert torch.equal(batch["input_ids_BT"], rollouts.input_ids_BT[[1, 2]]) and len(batch) == 2


def test_the_loss_by_hand(rollouts: Rollouts):
    algorithm = load({"name": "quark", "kl_coefficient": 0.5, "entropy_coefficient": 0.25})
    mask = torch.tensor([[0, 1, 1], [0, 1, 0]])
    garbage = math.nan
    logprobs = torch.tensor([[garbage, -1.0, -2], [garbage, -4, garbage]]).requires_grad_()
    entropy = torch.tensor([[garbage, 2.0, 4], [garbage, 6, garbage]])
    kl = torch.tensor([[garbage, 1.0, 3], [garbage, 2, garbage]])
    minibatch = algorithm.prepare(rollouts)
    minibatch.tensors = {"policy_mask_BT": mask}
    loss = algorithm.loss("policy", Outputs(logprobs, entropy, kl_BT=kl), minibatch)
    assert loss.numerator.item() == 7 + 0.5 * 6 - 0.25 * 12
    assert loss.normaliser == algorithm.normaliser("policy", minibatch) == 3
    assert loss.metrics["kl/reference"].value == 3  # (1 + 3) and 2, a mean over answers
    assert loss.metrics["policy/entropy"].value == 4
    assert loss.metrics.keys() | {"quark/best_score"} <= algorithm.metrics
    assert torch.autograd.grad(loss.numerator, logprobs)[0].tolist() == [[0, -1, -1], [0, -1, 0]]


def test_without_the_divergence_no_reference_takes_part():
    plain = load({"name": "quark", "kl_coefficient": 0})
    assert "reference" not in plain.roles and plain.needs == {"scores"} and "kl/reference" not in plain.metrics
    assert load({"name": "quark"}).needs == {"scores", "exact_kl"}


def test_quantiles_are_as_many_as_the_stage_sets(rollouts: Rollouts):
    algorithm = load({"name": "quark", "quantiles": 2})
    batch = algorithm.prepare(rollouts)
    # scores 1, 3, 2, .5, .5, -1: at most two of six are higher than each of the first three
    assert batch["input_ids_BT"][:, 0].tolist() == [TOKENS[q] for q in (0, 0, 0, 1, 1, 1)]
    assert algorithm.reward_tokens == 2


def test_passes_are_the_epochs_and_a_counted_entropy_has_a_gradient():
    assert load({"name": "quark"}).passes == 1
    assert load({"name": "quark", "epochs": 3}).passes == 3
    assert not load({"name": "quark"}).differentiates_entropy
    assert load({"name": "quark", "entropy_coefficient": 0.1}).differentiates_entropy
