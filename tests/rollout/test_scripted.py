from __future__ import annotations

import math

import pytest
import torch

from rayalign.config.sections import SamplingConfig
from rayalign.rollout.base import Request
from rayalign.rollout.scripted import ScriptedEngine

TABLE = torch.tensor([[0.0, math.log(3.0), -torch.inf], [0.0, 0.0, 0.0], [5.0, 5.0, -torch.inf]])


def _request(name: str, tokens: int = 4) -> Request:
    return Request(name, (0,), 1, SamplingConfig(max_tokens=tokens), stop_ids=(2,))


def test_a_script_is_followed_and_priced_by_the_table() -> None:
    engine = ScriptedEngine(TABLE, script=lambda request: (1, 2) if request.key == "short" else (1, 1, 0, 1))
    engine.submit(_request("long"))
    engine.submit(_request("short"))
    second, first = [finished for _ in range(4) for finished in engine.step()]
    assert first.tokens == (1, 1, 0, 1) and first.reason == "length"
    assert second.tokens == (1, 2) and second.reason == "stop"
    assert second.logprobs == pytest.approx((math.log(0.75), math.log(1 / 3)))


def test_after_its_script_the_table_goes_on() -> None:
    engine = ScriptedEngine(TABLE, script=lambda request: (0,), tokens_per_step=4)
    engine.submit(_request("g"))
    (finished,) = engine.step()
    assert finished.tokens[0] == 0 and len(finished.tokens) > 1


def test_asleep_it_writes_nothing_and_loses_weights_that_it_does_not_keep() -> None:
    engine = ScriptedEngine(TABLE)
    engine.sleep(keep_weights=True)
    engine.wake("weights")
    with pytest.raises(AssertionError, match="writes nothing"):
        engine.step()
    engine.wake("cache")
    assert engine.score([[0, 1]])[0] == pytest.approx([math.log(0.75)])
    engine.sleep()
    assert math.isnan(engine.score([[0, 1]])[0][0])


def test_named_candidates_fail() -> None:
    engine = ScriptedEngine(TABLE, fail={"bad"})
    engine.submit(_request("bad/1"))
    engine.submit(_request("good", tokens=1))
    assert [(f.key, f.failure is None) for f in engine.step()] == [("bad/1", False), ("good", True)]
