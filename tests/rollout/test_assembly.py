from __future__ import annotations

from rayalign.config.sections import SamplingConfig
from rayalign.rollout.assembly import Assembly
from rayalign.rollout.base import Finished, Request
from rayalign.types import Segment, Trajectory


def _request(name: str, prompt: tuple[int, ...] = (1, 2), seeds: tuple[int, ...] = (0, 1)) -> Request:
    return Request(name, prompt, seeds, SamplingConfig(max_tokens=3), stop_ids=(9,))


def test_versions_become_segments() -> None:
    draft, _ = Assembly(10).submit(_request("g"))
    for token, version in ((5, 3), (6, 3), (9, 4)):
        draft.add(token, -token / 10, version)
    assert draft.trajectory("stop") == Trajectory(
        group_id="g",
        index=0,
        token_ids=(1, 2, 5, 6, 9),
        segments=(Segment(0, "template"), Segment(2, "policy", 3), Segment(4, "policy", 4)),
        logprobs=(-0.5, -0.6, -0.9),
        finish_reason="stop",
    )


def test_impossible_prompts_are_pending_until_they_are_taken() -> None:
    assembly = Assembly(2)
    assert assembly.submit(_request("long")) == assembly.submit(_request("empty", prompt=())) == []
    assert assembly.pending == 2
    assert [(f.group_id, f.trajectories, bool(f.failure)) for f in assembly.take()] == [
        ("long", (), True),
        ("empty", (), True),
    ]
    assert assembly.pending == 0


def test_forgotten_groups_do_not_leave() -> None:
    assembly = Assembly(10)
    for name in ("a", "b", "c"):
        assembly.submit(_request(name))
    assembly.fail("a", "broken")
    assembly.fail("b", "broken")
    assembly.abort(["a", "c"])
    assert assembly.take() == [Finished("b", (), "broken")]
    assert assembly.pending == 0
