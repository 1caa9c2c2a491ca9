import pytest
import torch

from rayalign.algorithms import ppo
from rayalign.algorithms.policy_gradient import policy_loss


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
