"""The reference reads at the temperature at which the policy wrote."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from rayalign.actors.hosted import FrozenSpec, Rendezvous
from rayalign.actors.reference import ReferenceActor
from rayalign.config import LearnerConfig
from tests.actors.spread_ranks import GROUPS


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_its_log_probs_are_at_the_temperature_of_its_spec(
    model: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    actor = ReferenceActor(FrozenSpec(model, LearnerConfig(), temperature, model, 9.0))
    actor.setup(Rendezvous(0, 1, "127.0.0.1", 0))
    ids_1T = torch.tensor([GROUPS[0].trajectories[0].token_ids])
    logits_TV = AutoModelForCausalLM.from_pretrained(model)(ids_1T).logits[0] / temperature
    logprobs_T = logits_TV.log_softmax(dim=-1)[:-1].gather(1, ids_1T[0, 1:, None])[:, 0]
    written = logprobs_T[1:]  # the prompt has two tokens
    assert actor.mean_logprobs(GROUPS[:1], 0) == pytest.approx([written.mean().item()], abs=1e-5)
