"""PPO against what TRL 1.12 computed, the last version with PPO: record_trl_ppo.py ran it and noted its tensors.

Known differences:
- An answer that ends before the longest one allowed has one more step in TRL, after its last token: the score is paid
  there, and the critic's value there is trained. Here the score is paid on the last token, and the value after it is 0.
  So the batch `full`, in which no answer ends early, goes through the whole of `prepare`; of the other one the same
  formulas are compared on TRL's own steps.
- TRL takes the old log-probs from generation, in float32; here the trainer computes them. The tests take TRL's.
- TRL has one `cliprange` where `clip_low` and `clip_high` are two.
- TRL's whitening makes n / (n - 1) in float32, so it is equal to 1e-7 only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rayalign.algorithms import ops
from rayalign.algorithms.base import load
from rayalign.algorithms.ppo import policy_loss, value_loss
from rayalign.types import Rollouts

RECORDED = json.loads(Path(__file__).with_name("trl_ppo.json").read_text())
SETTINGS = RECORDED["settings"]
PROMPT = 3
BATCHES = ("stopped", "full")


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def valid(padding: Any) -> Tensor:
    return ~torch.tensor(padding)


def assert_equal(ours: Tensor, theirs: Any, *, within: float = 1e-9) -> None:
    torch.testing.assert_close(ours, tensor(theirs), atol=within, rtol=0)


def test_the_record_is_of_the_last_version_with_ppo() -> None:
    assert RECORDED["versions"]["trl"] == "1.12.0"
    early = [not row[-1] for row in valid(RECORDED["stopped"]["batch"]["padding_mask"]).tolist()]
    assert any(early) and not all(early)
    assert valid(RECORDED["full"]["batch"]["padding_mask"]).all()


@pytest.mark.parametrize("name", BATCHES)
def test_advantages_returns_and_whitening(name: str) -> None:
    batch = RECORDED[name]["batch"]
    steps_BT, tokens_BT = valid(batch["padding_mask_p1"]), valid(batch["padding_mask"])
    advantages_BT, returns_BT = ops.gae(
        tensor(batch["rewards"]), tensor(batch["values"]), steps_BT, gamma=SETTINGS["gamma"], lam=SETTINGS["lam"]
    )
    assert_equal(returns_BT, batch["returns"])
    assert_equal(ops.zeroed(advantages_BT, tokens_BT), ops.zeroed(tensor(batch["advantages"]), tokens_BT).tolist())
    whitened_BT = ops.masked_whiten(advantages_BT, tokens_BT)
    assert_equal(whitened_BT, batch["whitened"], within=1e-6)


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("number", [0, 1])
def test_the_policys_loss_and_its_gradient(name: str, number: int) -> None:
    step = RECORDED[name]["steps"][number]
    mask_BT = valid(step["padding_mask"])
    new_BT = tensor(step["new_logprobs"]).requires_grad_()
    old_BT, advantages_BT = tensor(step["mb_logprobs"]), tensor(step["mb_advantage"])
    clip = SETTINGS["cliprange"]
    loss_BT = policy_loss(new_BT, old_BT, advantages_BT, clip_low=clip, clip_high=clip)
    loss = ops.aggregate(loss_BT, mask_BT, "token-mean")
    loss.backward()
    assert new_BT.grad is not None and new_BT.grad.abs().max() > 1e-3
    assert_equal(loss, step["policy_loss"])
    assert_equal(new_BT.grad, step["policy_gradient"])


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("number", [0, 1])
def test_the_critics_loss_and_its_gradient(name: str, number: int) -> None:
    step = RECORDED[name]["steps"][number]
    mask_BT = valid(step["padding_mask_p1"])
    values_BT = tensor(step["vpred"]).requires_grad_()
    old_BT, returns_BT = tensor(step["mb_values"]), tensor(step["mb_return"])
    loss_BT = value_loss(values_BT, old_BT, returns_BT, clip=SETTINGS["cliprange_value"])
    loss = ops.aggregate(loss_BT, mask_BT, "token-mean")
    loss.backward()
    assert values_BT.grad is not None and values_BT.grad.abs().max() > 1e-3
    assert_equal(loss, step["value_loss"])
    assert_equal(values_BT.grad, step["value_gradient"])


def test_some_tokens_of_the_second_step_are_clipped() -> None:
    for name in BATCHES:
        step = RECORDED[name]["steps"][1]
        ratio_BT = (tensor(step["new_logprobs"]) - tensor(step["mb_logprobs"])).exp()
        distance_BT = (tensor(step["vpred"]) - tensor(step["mb_values"])).abs()
        for far_BT in ((ratio_BT - 1).abs() > SETTINGS["cliprange"], distance_BT > SETTINGS["cliprange_value"]):
            assert far_BT.any() and not far_BT.all()


def rollouts(batch: dict[str, Any]) -> Rollouts:
    """TRL's answers after a prompt of three tokens."""
    answers_BT = valid(batch["padding_mask"]).long()
    mask_BT = torch.nn.functional.pad(answers_BT, (PROMPT, 0))
    attention_BT = torch.nn.functional.pad(answers_BT, (PROMPT, 0), value=1)

    def after_prompt(values: Any) -> Tensor:
        return torch.nn.functional.pad(tensor(values), (PROMPT, 0))

    return Rollouts(
        input_ids_BT=attention_BT,
        attention_mask_BT=attention_BT,
        policy_mask_BT=mask_BT,
        group_B=torch.arange(len(mask_BT)),
        scores_B=tensor(batch["scores"]),
        behaviour_logprobs_BT=after_prompt(batch["logprobs"]),
        logprobs_BT=after_prompt(batch["logprobs"]),
        reference_logprobs_BT=after_prompt(batch["ref_logprobs"]),
        values_BT=after_prompt(batch["values"]),
    )


def prepared(batch: dict[str, Any], *, whiten: bool) -> dict[str, Tensor]:
    """Advantages and returns of the answers' tokens, from log-probs, scores and values."""
    settings = {"kl_coefficient": SETTINGS["kl_coef"], "gamma": SETTINGS["gamma"], "lam": SETTINGS["lam"]}
    algorithm = load({"name": "ppo", "whiten_advantages": whiten, **settings})
    tensors = algorithm.prepare(rollouts(batch)).tensors
    return {name: tensors[name][:, PROMPT:] for name in ("advantages_BT", "returns_BT")}


def test_a_batch_without_early_ends_is_prepared_alike() -> None:
    batch = RECORDED["full"]["batch"]
    ours = prepared(batch, whiten=True)
    assert_equal(ours["advantages_BT"], batch["whitened"], within=1e-6)
    assert_equal(ours["returns_BT"], batch["returns"])


def test_only_answers_that_end_early_have_other_advantages() -> None:
    batch = RECORDED["stopped"]["batch"]
    tokens_BT = valid(batch["padding_mask"])
    ours_BT = prepared(batch, whiten=False)["advantages_BT"]
    theirs_BT = ops.zeroed(tensor(batch["advantages"]), tokens_BT)
    differs_B = ((ours_BT - theirs_BT).abs() > 1e-9).any(1)
    assert differs_B.tolist() == (~tokens_BT[:, -1]).tolist()
