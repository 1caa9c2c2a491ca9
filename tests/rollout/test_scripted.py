from __future__ import annotations

import math

import pytest
import torch

from rayalign.config.sections import SamplingConfig
from rayalign.rollout.base import Request
from rayalign.rollout.scripted import ScriptedEngine

TABLE = torch.tensor([[0.0, math.log(3.0), -torch.inf], [0.0, 0.0, 0.0], [5.0, 5.0, -torch.inf]])


def _request(name: str, tokens: int = 4) -> Request:
    return Request(name, (0,), (1, 2), SamplingConfig(max_tokens=tokens), stop_ids=(2,))


def test_a_script_is_followed_and_priced_by_the_table() -> None:
    engine = ScriptedEngine(TABLE, script=lambda request, index: (1, 2) if index else (1, 1, 0, 1))
    engine.submit(_request("g"))
    found = [finished for _ in range(4) for finished in engine.step()]
    first, second = found[0].trajectories
    assert first.token_ids == (0, 1, 1, 0, 1) and first.finish_reason == "length"
    assert second.token_ids == (0, 1, 2) and second.finish_reason == "stop"
    assert second.logprobs == pytest.approx((math.log(0.75), math.log(1 / 3)))


def test_after_its_script_the_table_goes_on() -> None:
    engine = ScriptedEngine(TABLE, script=lambda request, index: (0,), tokens_per_step=4)
    engine.submit(_request("g"))
    (finished,) = engine.step()
    assert all(t.token_ids[:2] == (0, 0) and len(t.token_ids) > 2 for t in finished.trajectories)


def test_named_groups_fail() -> None:
    engine = ScriptedEngine(TABLE, fail={"bad"})
    engine.submit(_request("bad"))
    engine.submit(_request("good", tokens=1))
    assert [(f.group_id, f.failure is None) for f in engine.step()] == [("bad", False), ("good", True)]
