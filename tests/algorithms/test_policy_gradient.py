from dataclasses import replace

import pytest
import torch

from rayalign.algorithms import ppo
from rayalign.algorithms.base import load
from rayalign.algorithms.policy_gradient import kl_loss, policy_loss
from rayalign.data.collate import collate_trajectories
from rayalign.types import Group, Prompt, Score, Segment, Trajectory


def test_policy_loss_is_the_worse_of_plain_and_clipped():
    ratio = torch.tensor([0.5, 0.5, 1.25, 1.25, 2.0, 2.0], dtype=torch.float64)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    new = ratio.log().requires_grad_()
    loss = policy_loss(new, torch.zeros_like(ratio), advantages, clip_low=0.2, clip_high=0.3)
    expected = torch.tensor([-0.5, 0.8, -1.25, 1.25, -1.3, 2.0], dtype=torch.float64)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss.sum(), new)
    torch.testing.assert_close(gradient, torch.tensor([-0.5, 0, -1.25, 1.25, 0, 2.0], dtype=torch.float64))


def test_dual_clip_bounds_the_loss_of_bad_tokens_only():
    ratio, advantages = torch.tensor([9.0, 2.0, 0.1]), torch.tensor([-2.0, -2.0, 2.0])
    loss = policy_loss(ratio.log(), torch.zeros(3), advantages, clip_low=0.2, clip_high=0.2, dual_clip=3.0)
    torch.testing.assert_close(loss, torch.tensor([6.0, 4.0, -0.2]))


@pytest.mark.parametrize("gap", [-200.0, 200.0])
def test_policy_loss_stays_finite_far_away(gap):
    new = torch.full((2,), gap, requires_grad=True)
    loss = policy_loss(new, torch.zeros(2), torch.tensor([1.0, -1.0]), clip_low=0.2, clip_high=0.2)
    (gradient,) = torch.autograd.grad(loss.sum(), new)
    assert loss.isfinite().all() and gradient.isfinite().all()


def test_ppo_exports_the_shared_policy_loss():
    assert ppo.policy_loss is policy_loss


def test_kl_loss_has_the_gradient_of_the_kl_that_it_estimates():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, dtype=torch.float64, generator=generator).requires_grad_()
    ref = torch.randn(6, dtype=torch.float64, generator=generator).log_softmax(0)
    logprobs = logits.log_softmax(0)
    old = logprobs.detach()
    to_reference = (logprobs.exp() * (logprobs - ref)).sum()
    from_reference = (ref.exp() * (ref - logprobs)).sum()
    for unbiased, truth in ((True, to_reference), (False, from_reference)):
        estimate = (old.exp() * kl_loss(logprobs, old, ref, unbiased=unbiased)).sum()
        torch.testing.assert_close(estimate, to_reference)
        found, expected = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (estimate, truth))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("gap", [-200.0, 200.0])
@pytest.mark.parametrize("unbiased", [True, False])
def test_kl_loss_stays_finite_far_away(gap, unbiased):
    new = torch.full((2,), gap, requires_grad=True)
    loss = kl_loss(new, torch.zeros(2), torch.zeros(2), unbiased=unbiased)
    (gradient,) = torch.autograd.grad(loss.sum(), new)
    assert loss.isfinite().all() and gradient.isfinite().all()


def test_each_token_of_a_stale_answer_is_weighed_by_the_version_that_wrote_it():
    """Two tokens of version 2 and one of version 3, which is the trainer's; another answer is of version 3 alone."""
    versions = (Segment(0, "template"), Segment(1, "policy", 2), Segment(3, "policy", 3))
    mixed = Trajectory("g", 0, (5, 6, 7, 8), versions, (-1.0, -2.0, -0.5), "stop")
    fresh = Trajectory("g", 1, (5, 6, 7), (Segment(0, "template"), Segment(1, "policy", 3)), (-1.0, -1.0), "stop")
    group = Group("g", Prompt("p", ()), 3, (mixed, fresh), (Score(1.0), Score(0.0)))
    rollouts = collate_trajectories([group], pad_id=0, version=3)
    assert rollouts.staleness_B.tolist() == [1, 0]
    trainer = torch.tensor([[0.0, -0.8, -0.5, -0.5], [0.0, -0.9, -1.2, 0.0]])
    by_kind = {
        ("token-truncate", 2.0): [1.2214, 2.0, 1.0],
        ("token-truncate", 1.5): [1.2214, 1.5, 1.0],
        ("sequence", 2.0): [2.0, 2.0, 2.0],
    }
    for (kind, cap), expected in by_kind.items():
        algorithm = load({"name": "rloo", "kl_coefficient": 0.0, "correction_cap": cap, "correction_kind": kind})
        weights_BT = algorithm.prepare(replace(rollouts, logprobs_BT=trainer))["weights_BT"]
        assert weights_BT[0, 1:].tolist() == pytest.approx(expected, abs=1e-4)
        assert weights_BT[1, 1:3].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo", "reinforce_pp"])
def test_the_running_moments_of_scores_go_on_with_the_next_iteration(name, make_rollouts):
    algorithm = load({"name": name, "normalise_scores": True})
    rollouts = make_rollouts()
    first = algorithm.prepare(rollouts)
    assert first.state["score_count"] == 6 and first.state["score_mean"] == pytest.approx(1.0)
    second = algorithm.prepare(replace(rollouts, state=first.state, scores_B=rollouts.scores_B + 2.0))
    assert second.state["score_count"] == 12 and second.state["score_mean"] == pytest.approx(2.0)
