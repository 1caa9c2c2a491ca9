from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from rayalign.config import SamplingConfig
from rayalign.coordinator.groups import GroupAssembler, GroupOrder, GroupResult
from rayalign.errors import DeadlineError
from rayalign.rollout.base import Finished, Request
from rayalign.types import Candidate, Group, Message, Prompt, Segment, Trajectory

PROMPT = Prompt("p", (Message("user", "hello"),))


class Pool:
    """The generator pool's interface: finishes the submitted candidates in the order of their seeds."""

    def __init__(self, fail: Sequence[str] = (), lose: Sequence[str] = ()) -> None:
        self.requests: list[Request] = []
        self._fail, self._lose = fail, lose

    async def submit(self, requests: Sequence[Request]) -> None:
        self.requests += [request for request in requests if request.key not in self._lose]

    async def finished(self) -> AsyncIterator[Finished]:
        for request in sorted(self.requests, key=lambda request: request.seed):
            if request.key in self._fail:
                yield Finished(request.key, failure="the engine stumbled")
            else:
                yield Finished(request.key, (7, request.seed), (-0.5, -1.0), ((0, 3), (1, 4)), "stop")
        await asyncio.Event().wait()


class Renderer:
    """Token ids of its own, without a tokenizer."""

    def requests(self, group_id: str, prompt: Prompt, seeds: Sequence[int]) -> list[Request]:
        return [Request(f"{group_id}/{i}", (1, 2), seed, SamplingConfig(), (0,)) for i, seed in enumerate(seeds)]

    def decode(self, trajectory: Trajectory) -> str:
        return " ".join(map(str, trajectory.token_ids[2:]))

    def dataset_trajectory(self, group_id: str, index: int, prompt: Prompt, text: str) -> Trajectory:
        return Trajectory(group_id, index, (1, 2, 5), (Segment(0, "template"),), (), "stop", text)


def generate(pool: Pool, orders: Sequence[GroupOrder], timeout: float = 20.0) -> list[GroupResult]:
    assembler = GroupAssembler(pool, Renderer(), timeout=timeout)  # type: ignore[arg-type]
    return asyncio.run(assembler.generate(orders))


def test_groups_come_in_the_order_of_their_orders_and_candidates_in_that_of_their_seeds() -> None:
    orders = [GroupOrder("a", PROMPT, (9, 4), iteration=2), GroupOrder("b", PROMPT, (3,))]
    segments = (Segment(0, "template"), Segment(2, "policy", 3), Segment(3, "policy", 4))

    def written(group_id: str, index: int, seed: int) -> Trajectory:
        return Trajectory(group_id, index, (1, 2, 7, seed), segments, (-0.5, -1.0), "stop", f"7 {seed}")

    assert generate(Pool(), orders) == [
        GroupResult("a", Group("a", PROMPT, 2, (written("a", 0, 9), written("a", 1, 4)))),
        GroupResult("b", Group("b", PROMPT, 0, (written("b", 0, 3),))),
    ]


def test_answers_of_the_data_set_come_after_the_written_ones() -> None:
    (result,) = generate(Pool(), [GroupOrder("a", PROMPT, (5,), dataset=(Candidate("x"), Candidate("y")))])
    assert result.group is not None
    assert [(t.index, t.text) for t in result.group.trajectories] == [(0, "7 5"), (1, "x"), (2, "y")]


def test_a_group_fails_with_its_candidate_once_all_others_have_ended() -> None:
    orders = [GroupOrder("a", PROMPT, (1, 2, 3)), GroupOrder("b", PROMPT, (4,))]
    failed, whole = generate(Pool(fail=["a/1"]), orders)
    assert failed == GroupResult("a", None, "the engine stumbled")
    assert whole.group is not None


def test_a_candidate_that_never_comes_is_a_deadline() -> None:
    orders = [GroupOrder("a", PROMPT, (1, 2)), GroupOrder("b", PROMPT, (3,))]
    with pytest.raises(DeadlineError, match="1 groups are on the engines, and none finished within 0 s"):
        generate(Pool(lose=["a/0"]), orders, timeout=0.05)
