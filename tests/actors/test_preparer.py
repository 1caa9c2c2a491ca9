"""What `prepare` is handed, without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from rayalign.actors import preparer as module
from rayalign.actors.preparer import PreparerActor, PreparerSpec
from rayalign.algorithms.grpo import Grpo
from rayalign.types import Batch, Outputs, Rollouts


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> PreparerActor:
    """An actor whose handles are the objects themselves."""
    monkeypatch.setattr(module, "fetch", lambda handle, timeout: handle)
    monkeypatch.setattr(module, "keep", lambda value: value)
    algorithm = {"name": "grpo", "kl_coefficient": 0.0, "correction_cap": None}
    return PreparerActor(PreparerSpec(algorithm, timeout=1.0))


def rollouts() -> Rollouts:
    mask_BT = torch.tensor([[0, 1], [0, 1]])
    return Rollouts(
        input_ids_BT=torch.ones(2, 2, dtype=torch.long),
        attention_mask_BT=torch.ones(2, 2, dtype=torch.long),
        policy_mask_BT=mask_BT,
        group_B=torch.tensor([0, 0]),
        scores_B=torch.tensor([0.0, 1.0]),
        behaviour_logprobs_BT=torch.tensor([[0.0, -1.0], [0.0, -2.0]]),
    )


def prepared(actor: PreparerActor, outputs: Mapping[str, Any]) -> tuple[list[list[float]], set[str]]:
    """The proximal log-probs of the batch, and the names of its metrics."""
    batch, _, metrics = actor.prepare(rollouts(), outputs, {})  # type: ignore[arg-type]
    return batch["logprobs_BT"].tolist(), set(metrics)  # type: ignore[index]


def test_the_trainers_log_probs_are_the_proximal_ones(actor: PreparerActor) -> None:
    share = Outputs(logprobs_BT=torch.tensor([[0.0, -1.5], [0.0, -2.5]]))
    logprobs, metrics = prepared(actor, {"logprobs_BT": [share]})
    assert logprobs == [[0.0, -1.5], [0.0, -2.5]]
    assert "rollout/mismatch_k3" in metrics


def test_the_engines_take_their_place_and_then_have_no_mismatch(actor: PreparerActor) -> None:
    logprobs, metrics = prepared(actor, {})
    assert logprobs == [[0.0, -1.0], [0.0, -2.0]]
    assert "rollout/mismatch_k3" not in metrics


class Reporting(Grpo):
    """Returns as its state what it was handed beside the tokens."""

    def prepare(self, rollouts: Rollouts) -> Batch:
        tokens = {f"token_{place}": float(token) for place, token in enumerate(rollouts.reward_tokens)}
        state = {**rollouts.state, **tokens, "no_std": float(self.config.no_std)}
        return Batch({}, rollouts.group_B, state=state)


def test_settings_reward_tokens_and_the_state_of_the_iteration_before_come_along(actor: PreparerActor) -> None:
    algorithm = {"name": f"{__name__}:Reporting", "no_std": True}
    reporting = PreparerActor(PreparerSpec(algorithm, timeout=1.0, reward_tokens=(90, 91)))
    _, state, _ = reporting.prepare(rollouts(), {}, {"kl_beta": 0.25})  # type: ignore[arg-type]
    assert state == {"kl_beta": 0.25, "token_0": 90.0, "token_1": 91.0, "no_std": 1.0}
