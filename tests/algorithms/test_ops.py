import math
from functools import partial

import pytest
import torch

from rayalign.algorithms import ops
from rayalign.errors import InputError
from rayalign.types import Rollouts

MASK = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
"""left padding and a hole; right padding; nothing"""
MODES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_moments_and_whitening():
    x = torch.tensor([[1.0, 2.0, 6.0, 100.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0]])
    assert ops.masked_mean(x, mask) == 3
    assert ops.masked_var(x, mask) == 7 and ops.masked_var(x, mask, unbiased=False) == 14 / 3
    white = ops.masked_whiten(x, mask, eps=0.0)
    torch.testing.assert_close(white, torch.tensor([[-2.0, -1.0, 3.0, 0.0]], dtype=torch.float64) / math.sqrt(7))
    kept = ops.masked_whiten(x, mask, shift_mean=False, eps=0.0)
    torch.testing.assert_close(kept[:, :3], white[:, :3] + 3)
    assert kept[0, 3] == 0
    assert ops.masked_mean(x, mask * 0) == 0 and ops.masked_var(x[:, :1], mask[:, :1]) == 0


def test_kl_estimates():
    new, ref = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    found = {kind: ops.kl_estimate(new, ref, kind).item() for kind in ("k1", "k2", "k3", "abs")}
    log2 = math.log(2)
    assert found == pytest.approx({"k1": log2, "k2": log2**2 / 2, "k3": 0.5 - 1 + log2, "abs": log2})
    assert (ops.kl_estimate(noise(999) * 1e-3, noise(999, seed=1) * 1e-3, "k3") >= 0).all()


def test_expected_kl_estimates_and_their_gradients():
    logits, ref = noise(6).requires_grad_(), noise(6, seed=1).log_softmax(0)
    logprobs = logits.log_softmax(0)
    chance = logprobs.detach().exp()
    forward = (logprobs.exp() * (logprobs - ref)).sum()
    backward = (ref.exp() * (ref - logprobs)).sum()
    for kind in ("k1", "k3"):
        torch.testing.assert_close((chance * ops.kl_estimate(logprobs, ref, kind)).sum(), forward)
    for kind, truth in (("k1", 0 * forward), ("k2", forward), ("k3", backward)):
        estimate = (chance * ops.kl_estimate(logprobs, ref, kind)).sum()
        found, expected = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (estimate, truth))
        torch.testing.assert_close(found, expected)


def test_score_stands_once_on_the_last_valid_token():
    scores, kl = torch.tensor([7.0, -9.0, 5.0], dtype=torch.float64), noise(3, 5)
    rewards = ops.shape_rewards(scores, kl, MASK, beta=0.1, score_clip=6.0)
    plain = ops.shape_rewards(scores, kl, MASK, beta=0.0, score_clip=6.0)
    assert plain.tolist() == [[0, 0, 0, 0, 6], [0, -6, 0, 0, 0], [0, 0, 0, 0, 0]]
    torch.testing.assert_close(rewards.sum(1), plain.sum(1) - 0.1 * (kl * MASK).sum(1))
    full = ops.shape_rewards(scores, kl, torch.ones(3, 5), beta=0.0)
    assert full[:, -1].tolist() == [7, -9, 5]


def test_scores_of_answers_that_were_cut():
    scores, ended = torch.tensor([2.0, 3.0, math.nan]), torch.tensor([1, 0, 0])
    for policy, expected in (("keep", 3.0), ("replace", -1.0), ("subtract", 4.0)):
        found = ops.missing_eos_scores(scores, ended, policy=policy, value=-1.0)
        assert found[:2].tolist() == [2.0, expected] and found[2].isnan()


@pytest.mark.parametrize(("mode", "expected"), list(zip(MODES, (3, 3, 7.5, 0.75), strict=True)))
def test_aggregate_denominators(mode, expected):
    x = torch.tensor([[9.0, 1.0, 3.0, 9.0, 5.0], [2.0, 4.0, 9.0, 9.0, 9.0], [9.0] * 5])
    assert ops.aggregate(x, MASK, mode, max_length=10) == expected
    parts = [slice(0, 1), slice(1, 3)]
    total = sum(ops.aggregate_sum(x[p], MASK[p], mode, max_length=10) for p in parts)
    assert total / sum(ops.aggregate_count(MASK[p], mode) for p in parts) == expected


def test_importance_weights():
    ratios = torch.tensor([[9.0, 4.0, 0.5, 9.0, 0.25], [2.0, 3.0, 9.0, 9.0, 9.0], [9.0] * 5], dtype=torch.float64)
    expected = {
        "token-truncate": [[0, 2.5, 0.5, 0, 0.25], [2, 2.5, 0, 0, 0]],
        "token-mask": [[0, 0, 0.5, 0, 0], [2, 0, 0, 0, 0]],
        "sequence": [[0, 0.5, 0.5, 0, 0.5], [2.5, 2.5, 0, 0, 0]],
        "sequence-geometric": [[0, 0.5 ** (1 / 3), 0.5 ** (1 / 3), 0, 0.5 ** (1 / 3)], [6**0.5, 6**0.5, 0, 0, 0]],
    }
    for kind, rows in expected.items():
        found = ops.importance_weights(ratios.log().requires_grad_(), 0 * ratios, MASK, cap=2.5, kind=kind)
        torch.testing.assert_close(found, torch.tensor([*rows, [0.0] * 5], dtype=torch.float64))
        assert not found.requires_grad


def test_effective_sample_fraction():
    weights = torch.tensor([[1.0, 3.0, 5.0]])
    assert ops.effective_sample_fraction(weights, torch.tensor([[1, 1, 0]])) == pytest.approx(16 / 20)
    assert ops.effective_sample_fraction(torch.ones(1, 3), torch.ones(1, 3)) == 1
    assert ops.effective_sample_fraction(weights, torch.zeros(1, 3)) == 0


def test_group_advantages():
    nan = math.nan
    scores = torch.tensor([[1.0, 2, 6], [5, nan, 3], [0.1, 0.1, 0.1], [nan, 4, nan], [nan] * 3], dtype=torch.float64)
    quiet = [[0.0] * 3] * 3
    expected = {"rloo": [[-3, -1.5, 4.5], [2, 0, -2]], "grpo-no-std": [[-2, -1, 3], [1, 0, -1]]}
    expected["grpo"] = [[-2 / 7**0.5, -1 / 7**0.5, 3 / 7**0.5], [0.5**0.5, 0, -(0.5**0.5)]]
    for kind, rows in expected.items():
        wanted = torch.tensor(rows + quiet, dtype=torch.float64)
        torch.testing.assert_close(ops.group_advantages(scores, kind=kind), wanted, rtol=2e-6, atol=0)
    assert ops.group_advantages(torch.tensor([[3.0]]), kind="rloo").tolist() == [[0.0]]


def test_groups_without_candidates_are_refused():
    with pytest.raises(InputError, match="at least one candidate"):
        ops.group_advantages(torch.ones(2, 0), kind="rloo")


def test_unknown_kinds_are_refused_with_the_known_ones():
    with pytest.raises(InputError, match="k4.*k1, k2, k3, abs"):
        ops.kl_estimate(noise(1), noise(1), "k4")
    with pytest.raises(InputError, match="rloo, grpo, grpo-no-std"):
        ops.group_advantages(noise(1, 2), kind="ppo")


MASKED = {
    "mean": lambda x: ops.masked_mean(x, MASK),
    "var": lambda x: ops.masked_var(x, MASK),
    "whiten": lambda x: ops.masked_whiten(x, MASK, shift_mean=False),
    "gae rewards": lambda x: ops.gae(x, noise(3, 5), MASK, gamma=0.9, lam=0.9)[0],
    "gae values": lambda x: ops.gae(noise(3, 5), x, MASK, gamma=0.9, lam=0.9)[1],
    "shape_rewards": lambda x: ops.shape_rewards(noise(3), x, MASK, beta=0.1),
    "importance": lambda x: ops.importance_weights(x, noise(3, 5), MASK, cap=2.0, kind="sequence"),
    "behaviour": lambda x: ops.importance_weights(noise(3, 5), x, MASK, cap=2.0),
    "sample fraction": lambda x: ops.effective_sample_fraction(x, MASK),
    **{mode: partial(lambda mode, x: ops.aggregate(x, MASK, mode), mode) for mode in MODES},
}


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", MASKED)
def test_what_is_masked_has_no_influence(name, poison):
    clean, dirty = (noise(3, 5, seed=2).masked_fill(MASK == 0, x).requires_grad_() for x in (0.0, poison))
    kept = dirty.detach().clone()
    expected, found = MASKED[name](clean), MASKED[name](dirty)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    if found.requires_grad:
        gradients = [torch.autograd.grad(x.square().sum(), y)[0] for x, y in ((expected, clean), (found, dirty))]
        torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)
        assert (gradients[1][MASK == 0] == 0).all()
    if found.ndim == 2:
        assert (found[MASK == 0] == 0).all()
    torch.testing.assert_close(dirty.detach(), kept, rtol=0, atol=0, equal_nan=True)


def test_adaptive_kl_follows_its_target_with_a_bounded_step():
    controller = ops.AdaptiveKL(0.15, target=6.0, horizon=10000.0)
    assert controller.update(6.6, 500) == pytest.approx(0.15 * (1 + 0.1 * 0.05))
    for observed, error in ((600.0, 0.2), (-3.0, -0.2)):
        before = controller.beta
        assert controller.update(observed, 500) == controller.beta == pytest.approx(before * (1 + error * 0.05))


def test_running_moments_merge_to_those_of_the_whole():
    x = noise(11) * 3 + 1e6
    left, right = ops.RunningMoments(), ops.RunningMoments()
    left.update(x[:4])
    right.update(x[4:9])
    right.update(torch.cat([x[9:], torch.tensor([math.nan])]))
    assert left.merge(right) is left
    assert (left.count, left.mean) == (11, pytest.approx(x.mean().item()))
    assert left.var() == pytest.approx(x.var().item())
    assert left.var(unbiased=False) == pytest.approx(x.var(correction=0).item())
    torch.testing.assert_close(left.normalize(x), (x - x.mean()) / x.std())
    assert ops.RunningMoments(1.0, 5.0, 0.0).normalize(torch.tensor([7.0])) == 2


def test_rollout_metrics():
    mask = torch.tensor([[0, 1, 1, 1], [0, 1, 0, 0]])
    rollouts = Rollouts(mask, mask, mask, torch.arange(2), torch.tensor([1.0, 3.0]), torch.tensor([1, 0]))
    rollouts.logprobs_BT = torch.full((2, 4), -1.0).masked_fill(mask == 0, math.nan)
    rollouts.behaviour_logprobs_BT = rollouts.logprobs_BT.clone()
    rollouts.behaviour_logprobs_BT[1, 1] = -1.0 - math.log(2)
    found = {name: metric.value for name, metric in ops.rollout_metrics(rollouts).items()}
    assert found == pytest.approx(
        {
            "reward/mean": 2.0,
            "reward/std": 2**0.5,
            "rollout/eos_rate": 0.5,
            "rollout/length_p50": 2.0,
            "rollout/length_p95": 2.9,
            "rollout/mismatch_k3": (1 - math.log(2)) / 4,
            "rollout/mismatch_max": math.log(2),
            "rollout/ess": 25 / (4 * 7),
        }
    )
    absent = Rollouts(mask, mask, mask, torch.arange(2), torch.tensor([1.0, math.nan]))
    assert ops.rollout_metrics(absent)["reward/mean"].value == 1.0


def test_the_eos_rate_is_the_share_of_answers_that_ended():
    mask = torch.ones(4, 2, dtype=torch.long)
    rollouts = Rollouts(mask, mask, mask, torch.arange(4), ended_B=torch.tensor([1, 1, 0, 1]))
    assert ops.rollout_metrics(rollouts)["rollout/eos_rate"].value == 0.75


def test_the_largest_mismatch_is_so_on_either_side():
    mask = torch.tensor([[0, 1, 1]])
    rollouts = Rollouts(mask, mask, mask, torch.arange(1))
    rollouts.logprobs_BT = torch.tensor([[0, -3.0, -1.0]])
    rollouts.behaviour_logprobs_BT = torch.tensor([[0, -1.0, -1.5]])
    assert ops.rollout_metrics(rollouts)["rollout/mismatch_max"].value == 2.0


def test_tokens_of_a_data_set_have_no_mismatch():
    mask = torch.tensor([[0, 1, 1], [0, 1, 1]])
    rollouts = Rollouts(mask, mask, mask, torch.arange(2))
    rollouts.logprobs_BT = torch.full((2, 3), -1.0)
    rollouts.behaviour_logprobs_BT = torch.tensor([[0, -1.0, -1.0 - math.log(2)], [0, math.nan, math.nan]])
    found = {name: metric.value for name, metric in ops.rollout_metrics(rollouts).items()}
    assert found["rollout/mismatch_k3"] == pytest.approx((1 - math.log(2)) / 2)
    assert found["rollout/mismatch_max"] == pytest.approx(math.log(2))
    assert found["rollout/ess"] == pytest.approx(9 / (2 * 5))
