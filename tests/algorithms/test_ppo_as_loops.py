"""PPO and REINFORCE++ against loops over single tokens, written from the papers' formulas: value and gradient.

TRL had a PPO until 1.12. Its formulas are these too: k1 as a reward of each token, the score on the last token, GAE
from the last token to the first, whitening over all tokens, and both losses clipped.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rayalign.algorithms.base import load
from rayalign.types import Batch, Outputs, Rollouts

LENGTHS = (4, 1, 6, 3)
BETA, GAMMA, LAM, CLIP, VALUE_CLIP = 0.3, 0.9, 0.8, 0.2, 0.25
PROMPT = 2
Rows = list[list[float]]


@pytest.fixture
def rollouts() -> Rollouts:
    generator = torch.Generator().manual_seed(3)
    shape = (len(LENGTHS), PROMPT + max(LENGTHS))
    place_T = torch.arange(shape[1])
    attention_BT = (place_T < torch.tensor(LENGTHS)[:, None] + PROMPT).long()
    logprobs_BT = -torch.rand(shape, generator=generator, dtype=torch.float64)
    return Rollouts(
        input_ids_BT=attention_BT,
        attention_mask_BT=attention_BT,
        policy_mask_BT=attention_BT * (place_T >= PROMPT),
        group_B=torch.tensor([0, 0, 1, 1]),
        scores_B=torch.randn(shape[0], generator=generator, dtype=torch.float64),
        behaviour_logprobs_BT=logprobs_BT,
        logprobs_BT=logprobs_BT,
        reference_logprobs_BT=-torch.rand(shape, generator=generator, dtype=torch.float64),
        values_BT=torch.randn(shape, generator=generator, dtype=torch.float64),
    )


def of_answers(tensor_BT: Tensor) -> Rows:
    """The numbers of each answer's tokens."""
    return [tensor_BT[row, PROMPT : PROMPT + length].tolist() for row, length in enumerate(LENGTHS)]


def token_rewards(rollouts: Rollouts) -> Rows:
    ours, theirs = of_answers(rollouts.logprobs_BT), of_answers(rollouts.reference_logprobs_BT)
    rewards = []
    for row, score in enumerate(rollouts.scores_B.tolist()):
        own = [-BETA * (a - b) for a, b in zip(ours[row], theirs[row], strict=True)]
        own[-1] += score
        rewards.append(own)
    return rewards


def whitened(rows: Rows) -> Rows:
    flat = [number for row in rows for number in row]
    mean = sum(flat) / len(flat)
    variance = sum((number - mean) ** 2 for number in flat) / (len(flat) - 1)
    return [[(number - mean) / math.sqrt(variance + 1e-8) for number in row] for row in rows]


def advantages_and_returns(rollouts: Rollouts) -> tuple[Rows, Rows]:
    advantages, returns = [], []
    for rewards, values in zip(token_rewards(rollouts), of_answers(rollouts.values_BT), strict=True):
        own, after = [0.0] * len(rewards), 0.0
        for place in reversed(range(len(rewards))):
            following = values[place + 1] if place + 1 < len(values) else 0.0
            after = rewards[place] + GAMMA * following - values[place] + GAMMA * LAM * after
            own[place] = after
        advantages.append(own)
        returns.append([advantage + value for advantage, value in zip(own, values, strict=True)])
    return whitened(advantages), returns


def discounted_returns(rollouts: Rollouts) -> Rows:
    rows = []
    for rewards in token_rewards(rollouts):
        own, after = [0.0] * len(rewards), 0.0
        for place in reversed(range(len(rewards))):
            after = rewards[place] + GAMMA * after
            own[place] = after
        rows.append(own)
    return whitened(rows)


def policy_loss(new_BT: Tensor, rollouts: Rollouts, advantages: Rows) -> Tensor:
    total, count = new_BT.sum() * 0.0, 0
    for row, length in enumerate(LENGTHS):
        for token in range(length):
            place = PROMPT + token
            ratio = (new_BT[row, place] - rollouts.logprobs_BT[row, place]).exp()
            clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
            advantage = advantages[row][token]
            total = total + torch.maximum(-advantage * ratio, -advantage * clipped)
            count += 1
    return total / count


def critic_loss(new_BT: Tensor, rollouts: Rollouts, returns: Rows) -> Tensor:
    total, count = new_BT.sum() * 0.0, 0
    for row, length in enumerate(LENGTHS):
        for token in range(length):
            old, value = rollouts.values_BT[row, PROMPT + token], new_BT[row, PROMPT + token]
            clipped = value.clamp(old - VALUE_CLIP, old + VALUE_CLIP)
            target = returns[row][token]
            total = total + 0.5 * torch.maximum((value - target) ** 2, (clipped - target) ** 2)
            count += 1
    return total / count


def moved(tensor_BT: Tensor) -> Tensor:
    """What a later pass would read: far enough away that some tokens are clipped."""
    noise_BT = torch.randn(tensor_BT.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return (tensor_BT + 0.3 * noise_BT).requires_grad_()


def assert_equal(ours: Tensor, theirs: Tensor, leaf: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)
    gradients = [torch.autograd.grad(loss, leaf)[0] for loss in (ours, theirs)]
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=0)


def loss_of(algorithm: Any, role: str, outputs: Outputs, batch: Batch) -> Tensor:
    loss = algorithm.loss(role, outputs, batch)
    mean: Tensor = loss.numerator / loss.normaliser
    return mean


def test_ppo(rollouts: Rollouts) -> None:
    settings = {"kl_coefficient": BETA, "gamma": GAMMA, "lam": LAM, "value_clip": VALUE_CLIP}
    algorithm = load({"name": "ppo", "clip_low": CLIP, "clip_high": CLIP, **settings})
    batch = algorithm.prepare(rollouts)
    advantages, returns = advantages_and_returns(rollouts)
    for name, expected in (("advantages_BT", advantages), ("returns_BT", returns)):
        for ours, theirs in zip(of_answers(batch[name]), expected, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-9)
    logprobs_BT, values_BT = moved(rollouts.logprobs_BT), moved(rollouts.values_BT)
    policy = loss_of(algorithm, "policy", Outputs(logprobs_BT=logprobs_BT), batch)
    assert_equal(policy, policy_loss(logprobs_BT, rollouts, advantages), logprobs_BT)
    critic = loss_of(algorithm, "critic", Outputs(values_BT=values_BT), batch)
    assert_equal(critic, critic_loss(values_BT, rollouts, returns), values_BT)


def test_reinforce_pp(rollouts: Rollouts) -> None:
    settings = {"kl_coefficient": BETA, "gamma": GAMMA, "clip_low": CLIP, "clip_high": CLIP}
    algorithm = load({"name": "reinforce_pp", **settings})
    logprobs_BT = moved(rollouts.logprobs_BT)
    ours = loss_of(algorithm, "policy", Outputs(logprobs_BT=logprobs_BT), algorithm.prepare(rollouts))
    assert_equal(ours, policy_loss(logprobs_BT, rollouts, discounted_returns(rollouts)), logprobs_BT)
