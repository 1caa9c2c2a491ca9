"""A pool that loses engines in this process: who writes instead, and what is left when none can."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any

import pytest
from ray.exceptions import RayActorError

from rayalign.actors.hosted import Pulse
from rayalign.cluster import causes, starting_engines
from rayalign.cluster import group as groups
from rayalign.cluster import pool as pools
from rayalign.cluster.channel import load_folder
from rayalign.cluster.group import ActorGroup
from rayalign.cluster.heart import Condition
from rayalign.cluster.pool import GeneratorPool
from rayalign.cluster.seats import Seats
from rayalign.cluster.starting_engines import StartingEngines
from rayalign.config import SamplingConfig
from rayalign.errors import LostError
from rayalign.rollout.base import Finished, Request
from rayalign.storage.events import EventLog
from tests.cluster.fakes import Actor, Ref

DEAD = RayActorError("a", "The actor is dead because its worker process has died.")
REQUESTS = [Request(f"c{i}", (5, i), i, SamplingConfig(), ()) for i in range(6)]


class Engine(Actor):
    """Writes each candidate at once, until it is stopped or dead."""

    def __init__(self, pid: int, *, setup: Any = None) -> None:
        super().__init__(pid)
        self.written: list[Finished] = []
        self.got: list[str] = []
        self.answers |= {"setup": setup, "submit": self._submit, "collect": self._collect, "load_folder": None}

    def _submit(self, requests: Sequence[Request], tokenizer: str | None) -> None:
        self.got += [request.key for request in requests]
        self.written += [Finished(r.key, (1,), (-1.0,), ((0, 0),), "stop") for r in requests]

    def _collect(self, timeout: float) -> Any:
        written, self.written = self.written, []
        return written or Ref().settle([])

    def die(self) -> None:
        self.answers |= dict.fromkeys(("submit", "collect", "load_folder"), DEAD)

    def stop(self) -> None:
        self.silent = True


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[int, Condition]:
    """What the system knows of the processes; all of them are here, and Ray is not."""
    conditions: dict[int, Condition] = {}
    for module in (groups, causes):
        monkeypatch.setattr(module, "condition_at", lambda place: conditions.get(place.pid, Condition(False, 1.0)))
    monkeypatch.setattr(causes, "kills_since", lambda place, pulse: 0)
    monkeypatch.setattr(causes, "last_log_lines", lambda pid, address: "")
    for module in (groups, pools, starting_engines):
        monkeypatch.setattr(module, "end_actor", lambda actor, place, **_: None)
    monkeypatch.setattr(pools, "LOOK", 0.02)
    monkeypatch.setattr(starting_engines.ray, "wait", _wait)
    return conditions


def _wait(refs: list[Ref], **_: Any) -> tuple[list[Ref], list[Ref]]:
    ready = [ref for ref in refs if ref.future().done()]
    return ready, [ref for ref in refs if ref not in ready]


async def pool_of(events: EventLog, engines: list[Engine], *replacements: Engine, timeout: float = 60.0) -> Any:
    following = iter(replacements)
    group = ActorGroup("generator", engines, events=events, timeout=timeout, heartbeat=0.4)
    await group.locate(1.0)
    seats = Seats("generator", dict.fromkeys(engines, lambda _: next(following)), events, len(replacements))
    return GeneratorPool(group, None, "scripted", "m", timeout, starting=StartingEngines(seats, 0.3))  # type: ignore[arg-type]


async def written(pool: GeneratorPool, count: int = len(REQUESTS)) -> list[str]:
    """The keys of candidates as they come."""
    keys: list[str] = []
    async with aclosing(pool.finished()) as stream, asyncio.timeout(10.0):
        while len(keys) < count:
            keys.append((await anext(stream)).key)
    return keys


ALL = [request.key for request in REQUESTS]


@pytest.mark.parametrize("loss", ["die", "stop"])
def test_the_others_write_what_a_lost_engine_had(
    events: EventLog,
    machine: dict[int, Condition],
    loss: str,
    caplog: pytest.LogCaptureFixture,
    logged: Callable[[str], list[dict[str, Any]]],
) -> None:
    lost, other, new = Engine(1), Engine(2), Engine(3)
    machine[1] = Condition(stopped=True, cpu=1.0)

    async def work() -> list[str]:
        pool = await pool_of(events, [lost, other], new)
        await pool.submit(REQUESTS)
        assert lost.got and other.got
        getattr(lost, loss)()
        keys = await written(pool)
        assert (pool.group.actors, pool.pending) == ([other], 0)
        await pool.admit()
        assert pool.group.actors == [other, new]
        return keys

    with caplog.at_level(logging.WARNING):
        assert sorted(asyncio.run(work())) == ALL
    event = logged("actor_lost")[-1]
    assert (event["role"], event["replaced"]) == ("generator", True)
    assert "generator rank 0 (pid 1)" in caplog.text
    assert "another one starts in its place" in caplog.text


def test_an_engine_that_hangs_in_a_step_is_discarded(events: EventLog) -> None:
    hung, other = Engine(1), Engine(2)
    hung.answers |= {"collect": lambda timeout: Ref(), "pulse": Pulse(1, 0, working=31.0)}

    async def work() -> list[str]:
        pool = await pool_of(events, [hung, other])
        await pool.submit(REQUESTS)
        keys = await written(pool)
        assert pool.group.actors == [other]
        return keys

    assert sorted(asyncio.run(work())) == ALL


def test_an_engine_in_a_long_step_without_candidates_is_left_alone(events: EventLog) -> None:
    """It loads weights."""
    loading = Engine(1)
    loading.answers |= {"collect": lambda timeout: Ref(), "pulse": Pulse(1, 0, working=31.0)}

    async def work() -> None:
        pool = await pool_of(events, [loading])
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await written(pool)
        assert pool.group.actors == [loading]

    asyncio.run(work())


def test_candidates_wait_for_the_replacement_of_the_only_engine(events: EventLog) -> None:
    lost, late = Engine(1), Ref()
    new = Engine(2, setup=late)

    async def work() -> list[str]:
        pool = await pool_of(events, [lost], new)
        pool.renew = lambda: load_folder(pool, "m", None, 1.0)
        await pool.submit(REQUESTS[:3])
        lost.die()
        writing = asyncio.ensure_future(written(pool))
        await asyncio.sleep(0.1)
        assert (pool.group.actors, pool.pending, pool.starved) == ([], 3, False)
        await pool.submit(REQUESTS[3:])
        late.settle(None)
        return await writing

    assert sorted(asyncio.run(work())) == ALL
    assert new.got == ALL


def test_a_replacement_that_is_never_ready_is_replaced_too(events: EventLog) -> None:
    lost, never, new = Engine(1), Engine(2, setup=Ref()), Engine(3)

    async def work() -> list[str]:
        pool = await pool_of(events, [lost], never, new)
        pool.renew = lambda: load_folder(pool, "m", None, 1.0)
        await pool.submit(REQUESTS)
        lost.die()
        return await written(pool)

    assert sorted(asyncio.run(work())) == ALL
    assert (never.got, new.got) == ([], ALL)


def test_a_replacement_that_is_ready_may_wait_for_its_weights_for_long() -> None:
    starting = StartingEngines(None, 0.1)
    ready, never = Engine(1), Engine(2, setup=Ref())
    starting.add(ready)
    starting.add(never)
    time.sleep(0.2)
    assert starting.is_ready()
    assert starting.actors == [ready]


def test_without_an_engine_to_come_the_run_fails_and_names_the_last_one(events: EventLog) -> None:
    async def work() -> None:
        pool = await pool_of(events, [Engine(1)])
        await pool.submit(REQUESTS)
        pool.group.actors[0].die()
        await written(pool)

    with pytest.raises(LostError, match=r"^no generator is left; the last one: generator \(pid 1\) died: its process"):
        asyncio.run(work())


def test_a_load_goes_on_with_the_engines_that_follow_lost_ones(events: EventLog) -> None:
    lost, new = Engine(1), Engine(2)

    async def work() -> None:
        pool = await pool_of(events, [lost], new)
        lost.die()
        await load_folder(pool, "m", None, 1.0)
        assert pool.group.actors == [new]
        await pool.submit(REQUESTS)
        assert sorted(await written(pool)) == ALL

    asyncio.run(work())


def test_a_lost_engine_is_discarded_while_the_others_still_answer(
    events: EventLog, machine: dict[int, Condition]
) -> None:
    """They may wait for it: a transfer of weights goes to all at once."""
    stopped, other = Engine(1), Engine(2)
    machine[1] = Condition(stopped=True, cpu=1.0)
    answer = Ref()
    other.answers["receive"] = answer

    async def work() -> None:
        pool = await pool_of(events, [stopped, other])
        stopped.stop()
        answering = asyncio.ensure_future(pool.every(lambda a: a.receive.remote(), 60.0))
        while stopped in pool.group.actors:
            await asyncio.sleep(0.05)
        answer.settle("loaded")
        assert await answering == [(other, "loaded")]

    asyncio.run(asyncio.wait_for(work(), 10.0))


def test_candidates_of_an_attempt_that_ended_are_ignored(events: EventLog) -> None:
    engine = Engine(1)

    async def work() -> list[str]:
        pool = await pool_of(events, [engine])
        await pool.submit(REQUESTS[:3])
        pool.forget()
        assert pool.pending == 0
        await pool.submit(REQUESTS[3:])
        return await written(pool, 3)

    assert sorted(asyncio.run(work())) == ALL[3:]
