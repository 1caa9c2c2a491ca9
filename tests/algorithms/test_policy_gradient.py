import pytest
import torch

from rayalign.algorithms import ppo
from rayalign.algorithms.policy_gradient import kl_loss, policy_loss


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
