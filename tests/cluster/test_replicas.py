"""Who answers a call of a frozen role; actors in this process, without Ray."""

from __future__ import annotations

import asyncio
from typing import Any

from rayalign.cluster.group import ActorGroup
from rayalign.cluster.replicas import Replicas
from rayalign.cluster.wires import Wires
from rayalign.storage.events import EventLog


class Actor:
    def __init__(self, number: int) -> None:
        self.number = number


class Group:
    """The actor group's interface; notes who was called."""

    def __init__(self, *, spread: bool) -> None:
        self.spread = spread
        self.wires = Wires()
        self.called: list[int] = []
        self._actors = [Actor(number) for number in range(3)]

    def __len__(self) -> int:
        return len(self._actors)

    async def steady(self, rank: int, call: Any) -> Any:
        self.called.append(rank)
        return call(self._actors[rank])

    async def all(self, call: Any) -> list[Any]:
        return [await self.steady(rank, call) for rank in range(len(self))]


def ask(group: Group, number: int) -> Any:
    return asyncio.run(Replicas(group).ask(number, lambda actor: actor.number))  # type: ignore[arg-type]


def test_a_group_says_whether_its_actors_hold_one_model_in_parts(events: EventLog) -> None:
    whole = ActorGroup("reward", [object(), object()], events=events, timeout=1.0)
    parts = ActorGroup("reward", [object(), object()], events=events, timeout=1.0, spread=True)
    assert (len(Replicas(whole)), len(Replicas(parts))) == (2, 1)


def test_each_actor_with_a_whole_model_answers_by_itself() -> None:
    group = Group(spread=False)
    assert len(Replicas(group)) == 3  # type: ignore[arg-type]
    assert ask(group, 2) == 2
    assert group.called == [2]


def test_actors_with_a_model_in_parts_are_all_called_and_the_first_one_answers() -> None:
    group = Group(spread=True)
    assert len(Replicas(group)) == 1  # type: ignore[arg-type]
    assert ask(group, 0) == 0
    assert group.called == [0, 1, 2]
