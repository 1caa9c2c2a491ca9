"""Groups that lose an actor: what is named, what is replaced, and what is called again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError

from rayalign.cluster import causes
from rayalign.cluster import group as groups
from rayalign.cluster.group import ActorGroup
from rayalign.cluster.heart import Condition
from rayalign.cluster.seats import Renewal, Seats
from rayalign.errors import ActorError, DeadlineError, LostDataError, LostError
from rayalign.storage.events import EventLog
from tests.cluster.fakes import Actor, Ref

BEAT = 0.4
"""seconds until an actor without a heartbeat is lost"""
DEAD = RayActorError("a", "The actor is dead because its worker process has died.")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[int, Condition]:
    """What the system knows of each process: it runs and computes, where nothing else is said."""
    conditions: dict[int, Condition] = {}
    for module in (groups, causes):
        monkeypatch.setattr(
            module, "condition_at", lambda place: conditions.get(place.pid, Condition(False, time.time()))
        )
    monkeypatch.setattr(causes, "kills_since", lambda place, pulse: 0)
    monkeypatch.setattr(causes, "last_log_lines", lambda pid, address: f"the last words of {pid}")
    monkeypatch.setattr(groups, "PATIENCE", 0.2)
    return conditions


async def made(events: EventLog, *actors: Actor, timeout: float = 60.0) -> ActorGroup:
    group = ActorGroup("reward", actors, events=events, timeout=timeout, heartbeat=BEAT)
    await group.locate(1.0)
    return group


def score(actor: Any) -> Any:
    return actor.score.remote()


def lost(wait: Callable[[], Awaitable[Any]]) -> LostError:
    with pytest.raises(LostError) as caught:
        asyncio.run(wait())  # type: ignore[arg-type]
    return caught.value


def test_a_stopped_actor_is_found_by_its_heartbeat_long_before_the_deadline(
    events: EventLog, machine: dict[int, Condition]
) -> None:
    actor = Actor(pid=7)
    machine[7] = Condition(stopped=True, cpu=1.0)

    async def wait() -> None:
        group = await made(events, actor, timeout=1800.0)
        actor.silent = True
        await asyncio.wait_for(group.first(score), 5.0)

    error = lost(wait)
    assert str(error).startswith("reward (pid 7) is lost on 10.0.0.1: its process is stopped (SIGSTOP)")
    assert str(error).endswith("last log lines:\nthe last words of 7")


def test_a_hung_actor_is_found_and_one_that_computes_is_waited_for(
    events: EventLog, machine: dict[int, Condition]
) -> None:
    actor = Actor(pid=7)

    async def wait(timeout: float) -> None:
        group = await made(events, actor, timeout=timeout)
        actor.silent = True
        await group.first(score)

    with pytest.raises(DeadlineError, match="did not answer within 1 s"):
        asyncio.run(wait(1.0))
    machine[7] = Condition(stopped=False, cpu=1.0)
    actor.silent = False
    assert "its process hangs" in str(lost(lambda: wait(1800.0)))


def test_an_actor_that_answers_its_heartbeat_has_the_whole_deadline(events: EventLog) -> None:
    async def wait() -> None:
        await (await made(events, Actor(), timeout=1.0)).first(score)

    with pytest.raises(DeadlineError):
        asyncio.run(wait())


def test_the_rank_that_is_stopped_is_named_and_not_the_one_that_waits_for_it(
    events: EventLog, machine: dict[int, Condition]
) -> None:
    machine[2] = Condition(stopped=True, cpu=1.0)
    healthy, stopped = Actor(pid=1), Actor(pid=2)

    async def wait(timeout: float) -> None:
        group = await made(events, healthy, stopped, timeout=timeout)
        stopped.silent = True
        await group.all(score)

    for timeout in (BEAT / 10, 1800.0):  # the deadline, or the heartbeat first
        stopped.silent = False
        assert str(lost(lambda timeout=timeout: wait(timeout))).startswith("reward rank 1 (pid 2) is lost")  # type: ignore[misc]


def test_a_rank_that_died_is_named_and_not_the_one_whose_connection_broke(events: EventLog) -> None:
    reset = RayTaskError("update", "Connection closed by peer", RuntimeError("Connection closed by peer"))
    dying = Ref()

    async def wait() -> None:
        group = await made(events, Actor(1, score=reset), Actor(2, score=dying))
        asyncio.get_running_loop().call_later(0.1, dying.settle, DEAD)
        await group.all(score)

    assert str(lost(wait)).startswith("reward rank 1 (pid 2) died: ")


def renewed(group: ActorGroup, events: EventLog, *replacements: Actor, restarts: int = 3) -> list[tuple[int, Actor]]:
    """Gives the group seats that these take, one after another; what was set up as which rank."""
    following = iter(replacements)
    done: list[tuple[int, Actor]] = []

    async def set_up(rank: int, actor: Actor) -> None:
        group.note(actor, rank, await group.one(actor, lambda a: a.where.remote()))
        done.append((rank, actor))

    seats = Seats("reward", dict.fromkeys(group.actors, lambda _: next(following)), events, restarts)
    group.renewal = Renewal(seats, set_up)
    return done


def test_a_lost_actor_is_replaced_in_its_rank_and_called_again(
    events: EventLog, logged: Callable[[str], list[dict[str, Any]]]
) -> None:
    first, dead, other = Actor(1, score="a"), Actor(2, score=DEAD), Actor(3, score="b")

    async def wait() -> tuple[list[Any], list[Any]]:
        group = await made(events, first, dead)
        done = renewed(group, events, other)
        answers = await group.all(score)
        assert group.actors == [first, other]
        return answers, done

    answers, done = asyncio.run(wait())
    assert (answers, done) == (["a", "b"], [(1, other)])
    event = logged("actor_lost")[-1]
    assert (event["role"], event["replaced"]) == ("reward", True)
    assert event["reason"].startswith("reward rank 1 (pid 2) died: its process has died on 10.0.0.1")


def test_two_callers_of_a_lost_actor_replace_it_once(events: EventLog) -> None:
    dead, other = Actor(2, score=DEAD), Actor(3, score="b")

    async def wait() -> list[Any]:
        group = await made(events, dead)
        done = renewed(group, events, other)
        answers = await asyncio.gather(group.first(score), group.first(score))
        assert len(done) == 1
        return answers

    assert asyncio.run(wait()) == ["b", "b"]


def test_a_replacement_that_is_lost_at_once_is_replaced_too_but_not_for_ever(events: EventLog) -> None:
    dead = [Actor(pid, score=DEAD, where=DEAD) for pid in range(2, 6)]

    async def wait(restarts: int) -> Any:
        group = await made(events, Actor(1, score=DEAD))
        renewed(group, events, *dead[:2], Actor(9, score="b"), restarts=restarts)
        return await group.first(score)

    assert asyncio.run(wait(3)) == "b"
    assert "died" in str(lost(lambda: wait(2)))


def test_a_failure_of_the_actors_own_code_and_lost_data_replace_nobody(events: EventLog) -> None:
    bug = RayTaskError("score", "KeyError: 'drawer'", KeyError("drawer"))
    gone = RayTaskError("score", "", LostDataError("what the preparer kept is lost"))

    async def wait(error: Exception) -> None:
        group = await made(events, Actor(1, score=error))
        assert not renewed(group, events, Actor(2, score="b"))
        await group.first(score)

    with pytest.raises(ActorError, match="KeyError"):
        asyncio.run(wait(bug))
    with pytest.raises(LostDataError, match="what the preparer kept is lost"):
        asyncio.run(wait(gone))


def test_a_seat_goes_with_its_machine(
    events: EventLog, monkeypatch: pytest.MonkeyPatch, logged: Callable[[str], list[dict[str, Any]]]
) -> None:
    monkeypatch.setattr(groups, "node_is_gone", lambda place: place is not None)

    async def wait() -> None:
        group = await made(events, Actor(1, score=DEAD))
        assert not renewed(group, events, Actor(2, score="b"))
        await group.first(score)

    lost(wait)
    assert logged("actor_lost")[-1]["replaced"] is False
