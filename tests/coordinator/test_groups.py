"""Candidates to groups over a pool in this process: turns, limits, absent candidates, order, deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence

import pytest

from rayalign.config import SamplingConfig
from rayalign.coordinator.groups import GroupAssembler, GroupOrder, GroupResult
from rayalign.coordinator.rendering import Draw
from rayalign.errors import ActorError, DeadlineError
from rayalign.rollout.base import Finished, Request
from rayalign.rollout.environment import EnvironmentKind, Reply, SingleTurn, Turns
from rayalign.types import Absence, Candidate, Group, Message, Prompt, Segment, Trajectory

PROMPT = Prompt("p", (Message("user", "hello"),))
END = 0


class Pool:
    """The generator pool's interface: each turn is 7, the request's seed (below 100) and the end."""

    def __init__(self, fail: Sequence[str] = (), lose: Sequence[str] = (), version: int = 3) -> None:
        self.requests: list[Request] = []
        self.calls: list[int] = []
        self.version = version
        self._fail, self._lose = fail, lose
        self._turns: asyncio.Queue[Request] = asyncio.Queue()

    async def submit(self, requests: Sequence[Request]) -> None:
        self.requests += requests
        self.calls.append(len(requests))
        for request in sorted(requests, key=lambda request: request.seed):
            if request.key not in self._lose:
                self._turns.put_nowait(request)

    async def finished(self) -> AsyncGenerator[Finished, None]:
        while True:
            request = await self._turns.get()
            if request.key in self._fail:
                yield Finished(request.key, failure="the engine stumbled")
            else:
                tokens = (7, request.seed % 100, END)
                yield Finished(request.key, tokens, (-0.5, -1.0, -2.0), ((0, self.version),), "stop")


class Renderer:
    """Token ids of its own, without a tokenizer; a user's turn is 8, the length of its text and 9."""

    def __init__(self, context: int = 100) -> None:
        self.context = context
        self.model = "policy"
        self.turns = Turns(lambda messages: (8, len(messages[0].content), 9))

    def requests(
        self, group_id: str, prompt: Prompt, seeds: Sequence[int], own_draws: Sequence[Draw] = ()
    ) -> list[Request]:
        return [Request(f"{group_id}/{i}", (1, 2), seed, SamplingConfig(), (END,)) for i, seed in enumerate(seeds)]

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens))

    def dataset_trajectory(self, group_id: str, index: int, prompt: Prompt, answer: Candidate) -> Trajectory:
        return Trajectory(group_id, index, (1, 2, 5), (Segment(0, "template"),), (), "stop", answer.text)


class Twice:
    """Asks once more after the first turn."""

    def __init__(self, prompt: Prompt, turns: Turns) -> None:
        self._turns = turns

    def step(self, trajectory: Trajectory) -> Reply:
        return Reply(reward=0.25) if trajectory.turns else self._turns.user("more", reward=0.5)


def generate(
    pool: Pool,
    orders: Sequence[GroupOrder],
    environment: EnvironmentKind | None = None,
    *,
    timeout: float = 20.0,
    max_turns: int = 8,
    context: int = 100,
) -> list[GroupResult]:
    assembler = GroupAssembler(
        pool,  # type: ignore[arg-type]
        Renderer(context),  # type: ignore[arg-type]
        timeout=timeout,
        environment=environment,
        max_turns=max_turns,
    )
    return asyncio.run(assembler.generate(orders))


def only(results: Sequence[GroupResult]) -> Trajectory:
    """The one candidate of the one group."""
    (result,) = results
    assert result.group is not None
    (trajectory,) = result.group.trajectories
    return trajectory


def test_groups_come_in_the_order_of_their_orders_and_candidates_in_that_of_their_seeds() -> None:
    orders = [GroupOrder("a", PROMPT, (9, 4), iteration=2), GroupOrder("b", PROMPT, (3,))]
    segments = (Segment(0, "template"), Segment(2, "policy", 3))

    def written(group_id: str, index: int, seed: int) -> Trajectory:
        logprobs, text = (-0.5, -1.0, -2.0), f"7 {seed} 0"
        return Trajectory(group_id, index, (1, 2, 7, seed, END), segments, logprobs, "stop", text)

    for environment in (None, SingleTurn):
        assert generate(Pool(), orders, environment) == [
            GroupResult("a", Group("a", PROMPT, 2, (written("a", 0, 9), written("a", 1, 4)))),
            GroupResult("b", Group("b", PROMPT, 0, (written("b", 0, 3),))),
        ]


class Silent(Pool):
    """Each answer is its end alone."""

    async def finished(self) -> AsyncGenerator[Finished, None]:
        while True:
            request = await self._turns.get()
            yield Finished(request.key, (END,), (-0.5,), ((0, self.version),), "stop")


def test_an_answer_of_its_end_alone_is_a_candidate() -> None:
    (result,) = generate(Silent(), [GroupOrder("a", PROMPT, (9, 4))])
    assert result.group is not None
    assert [(t.token_ids, t.loss_mask) for t in result.group.trajectories] == [((1, 2, END), [False, False, True])] * 2


def test_answers_of_the_data_set_come_after_the_written_ones() -> None:
    (result,) = generate(Pool(), [GroupOrder("a", PROMPT, (5,), dataset=(Candidate("x"), Candidate("y")))])
    assert result.group is not None
    assert [(t.index, t.text) for t in result.group.trajectories] == [(0, "7 5 0"), (1, "x"), (2, "y")]


def test_an_environment_appends_tokens_that_are_not_trained_on() -> None:
    pool = Pool()
    trajectory = only(generate(pool, [GroupOrder("a", PROMPT, (5,))], Twice))
    seed = pool.requests[1].seed
    assert trajectory.token_ids == (1, 2, 7, 5, END, 8, 4, 9, 7, seed % 100, END)
    assert [(s.start, s.author) for s in trajectory.segments] == [
        (0, "template"),
        (2, "policy"),
        (5, "environment"),
        (8, "policy"),
    ]
    assert trajectory.loss_mask == [False] * 2 + [True] * 3 + [False] * 3 + [True] * 3
    assert trajectory.logprobs == (-0.5, -1.0, -2.0) * 2
    assert trajectory.turns == (Message("assistant", "7 5 0"), Message("user", "more"))
    assert (trajectory.text, trajectory.reward) == (f"7 {seed % 100} 0", 0.75)


def test_the_next_turn_is_the_same_candidate_with_a_longer_prefix_and_a_seed_of_its_own() -> None:
    pool = Pool()
    generate(pool, [GroupOrder("a", PROMPT, (5, 6, 7))], Twice)
    first, second = pool.requests[:3], pool.requests[3:]
    assert {request.key for request in first} == {request.key for request in second}
    assert all(len(request.prompt_ids) == 8 for request in second)
    assert len({request.seed for request in pool.requests}) == 6


def test_a_turn_finished_under_older_weights_counts_for_staleness() -> None:
    pool = Pool(version=3)

    class Publishing(Twice):
        def step(self, trajectory: Trajectory) -> Reply:
            pool.version = 4
            return super().step(trajectory)

    trajectory = only(generate(pool, [GroupOrder("a", PROMPT, (5,))], Publishing))
    assert [s.version for s in trajectory.segments if s.author == "policy"] == [3, 4]
    assert trajectory.version == 3


class Endless:
    """Never done."""

    def __init__(self, prompt: Prompt, turns: Turns) -> None:
        self._turns = turns

    def step(self, trajectory: Trajectory) -> Reply:
        return self._turns.user("go on", reward=1.0)


def test_the_turn_limit_ends_a_candidate_as_cut() -> None:
    trajectory = only(generate(Pool(), [GroupOrder("a", PROMPT, (5,))], Endless, max_turns=3))
    assert (trajectory.finish_reason, trajectory.reward) == ("turns", 3.0)
    assert [s.author for s in trajectory.segments].count("policy") == 3
    assert trajectory.token_ids[-1] == END


def test_the_context_ends_a_candidate_that_has_no_room_for_a_next_turn() -> None:
    # 2 + 3, and 3 + 3 with each further turn; a third one would begin at 14
    trajectory = only(generate(Pool(), [GroupOrder("a", PROMPT, (5,))], Endless, context=14))
    assert trajectory.finish_reason == "length"
    assert len(trajectory.token_ids) == 11


class Shaky:
    """Fails for the candidates whose first answer holds an even seed."""

    def __init__(self, prompt: Prompt, turns: Turns) -> None:
        pass

    def step(self, trajectory: Trajectory) -> Reply:
        if trajectory.token_ids[3] % 2 == 0:
            raise ValueError("no even numbers")
        return Reply()


def test_an_environment_that_fails_makes_the_candidate_absent() -> None:
    (result,) = generate(Pool(), [GroupOrder("a", PROMPT, (1, 2, 3))], Shaky)
    assert result.group is not None
    assert [t.index for t in result.group.trajectories] == [0, 2]
    reason = "the environment failed with ValueError: no even numbers"
    assert result.group.absent == (Absence(1, reason),)


def test_a_group_with_less_than_two_candidates_left_fails() -> None:
    orders = [GroupOrder("a", PROMPT, (1, 2, 4)), GroupOrder("b", PROMPT, (3,))]
    failed, whole = generate(Pool(), orders, Shaky)
    assert failed.group is None
    assert failed.failure == "the environment failed with ValueError: no even numbers"
    assert whole.group is not None


def test_a_candidate_that_an_engine_failed_to_write_is_absent() -> None:
    (result,) = generate(Pool(fail=["a/1"]), [GroupOrder("a", PROMPT, (1, 2, 3))])
    assert result.group is not None
    assert result.group.absent == (Absence(1, "the engine stumbled"),)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (lambda self, trajectory: time.sleep(30), "DeadlineError: no answer within 0.25 s"),
        (lambda self, trajectory: "more", "InputError: step returned a str"),
        (lambda self, trajectory: Reply(done=False), "InputError: a reply that is not done must append tokens"),
        (lambda self, trajectory: Reply(reward=float("nan")), "InputError: a reward of nan is not finite"),
    ],
)
def test_a_step_that_hangs_or_returns_nonsense_is_a_failure(
    step: Callable[[object, Trajectory], Reply], reason: str
) -> None:
    kind = type("Odd", (SingleTurn,), {"step": step})
    (result,) = generate(Pool(), [GroupOrder("a", PROMPT, (1,))], kind, timeout=1.0)
    assert result.group is None
    assert reason in (result.failure or "")


def test_a_candidate_that_never_comes_is_a_deadline() -> None:
    orders = [GroupOrder("a", PROMPT, (1, 2)), GroupOrder("b", PROMPT, (3,))]
    with pytest.raises(DeadlineError, match="1 groups are on the engines, and none finished within 0 s"):
        generate(Pool(lose=["a/0"]), orders, timeout=0.05)


def test_a_pool_without_engines_fails_with_its_own_error() -> None:
    class Dead(Pool):
        async def finished(self) -> AsyncGenerator[Finished, None]:
            raise ActorError("no generator is left")
            yield

    with pytest.raises(ActorError, match="no generator is left"):
        generate(Dead(), [GroupOrder("a", PROMPT, (1,))])
