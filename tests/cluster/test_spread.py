"""Which engine of the pool gets which candidate, and what is lost with it; engines in this process, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from rayalign.cluster.pool import GeneratorPool
from rayalign.cluster.quiet import quiet
from rayalign.cluster.wires import Wires
from rayalign.config import SamplingConfig
from rayalign.errors import ActorError
from rayalign.rollout.base import Finished, Request


class Engine:
    """An actor's interface: hands out what the test lets finish."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.dead = False
        self._finished: asyncio.Queue[Finished] = asyncio.Queue()
        self.submit = SimpleNamespace(remote=self._submit)
        self.abort = SimpleNamespace(remote=self._abort)
        self.collect = SimpleNamespace(remote=self._collect)

    def finish(self, key: str) -> None:
        self._finished.put_nowait(Finished(key, (1,), (-1.0,), ((0, 0),), "stop"))

    async def _submit(self, requests: Sequence[Request], tokenizer: str | None) -> None:
        if self.dead:
            raise ActorError("generator died")
        self.keys += [request.key for request in requests]

    async def _abort(self, keys: set[str]) -> None:
        if self.dead:
            raise ActorError("generator died")
        self.keys = [key for key in self.keys if key not in keys]

    async def _collect(self, timeout: float) -> list[Finished]:
        candidate = await self._finished.get()
        if self.dead:
            raise ActorError("generator died")
        return [candidate]


class Engines:
    """The actor group's interface."""

    def __init__(self, count: int) -> None:
        self.actors = [Engine() for _ in range(count)]
        self.wires = Wires()

    async def one(self, actor: Engine, call: Callable[[Engine], Any], *, timeout: float | None = None) -> Any:
        return await call(actor)

    def pulse(self, actor: Engine) -> None:
        return None

    def machine_is_gone(self, actor: Engine) -> bool:
        return False

    def discard(self, actor: Engine) -> None:
        self.actors.remove(actor)


def make_pool(engines: Engines) -> GeneratorPool:
    return GeneratorPool(engines, None, "local", "model", 20.0)  # type: ignore[arg-type]


def candidates(prompt: int, count: int) -> list[Request]:
    return [Request(f"p{prompt}/{i}", (prompt,), i, SamplingConfig(), ()) for i in range(count)]


def test_candidates_of_one_prompt_share_an_engine() -> None:
    engines = Engines(2)
    requests = [request for prompt in range(4) for request in candidates(prompt, 3)]
    # in whichever order they come
    asyncio.run(make_pool(engines).submit(sorted(requests, key=lambda request: request.seed)))
    homes = [{key[:2] for key in engine.keys} for engine in engines.actors]
    assert homes == [{"p0", "p2"}, {"p1", "p3"}]
    assert [len(engine.keys) for engine in engines.actors] == [6, 6]


def test_one_prompt_with_many_candidates_does_not_leave_engines_idle() -> None:
    engines = Engines(3)
    asyncio.run(make_pool(engines).submit(candidates(0, 8)))
    assert sorted(len(engine.keys) for engine in engines.actors) == [2, 3, 3]


def test_the_least_loaded_engine_is_next() -> None:
    engines = Engines(2)
    pool = make_pool(engines)
    asyncio.run(pool.submit(candidates(0, 1)))
    asyncio.run(pool.submit(candidates(1, 1)))
    asyncio.run(pool.submit([*candidates(2, 2), *candidates(3, 2)]))
    assert [sorted(engine.keys) for engine in engines.actors] == [["p0/0", "p2/0", "p2/1"], ["p1/0", "p3/0", "p3/1"]]


def test_only_the_candidates_that_were_lost_are_submitted_again() -> None:
    async def run() -> tuple[list[str], list[str]]:
        engines = Engines(2)
        pool = make_pool(engines)
        dying, other = engines.actors
        await pool.submit([*candidates(0, 3), *candidates(1, 3)])
        stream = pool.finished()
        dying.finish("p0/1")
        first = await anext(stream)
        dying.dead = True
        dying.finish("p0/2")  # ends the poll, which fails
        other.finish("p1/0")
        second = await anext(stream)
        other.finish("p0/0")
        third = await anext(stream)
        await stream.aclose()
        assert engines.actors == [other]
        assert pool.pending == 3
        return [first.key, second.key, third.key], other.keys

    finished, submitted = asyncio.run(run())
    assert finished == ["p0/1", "p1/0", "p0/0"]
    assert submitted == ["p1/0", "p1/1", "p1/2", "p0/0", "p0/2"]


def test_a_next_turn_goes_to_the_engine_of_the_turn_before() -> None:
    async def run() -> list[list[str]]:
        engines = Engines(2)
        pool = make_pool(engines)
        await pool.submit([*candidates(0, 1), *candidates(1, 1)])
        stream = pool.finished()
        engines.actors[1].finish("p1/0")
        await anext(stream)
        # by load alone it would go to the other engine
        await pool.submit(candidates(2, 2))
        await pool.submit([replace(candidates(1, 1)[0], prompt_ids=(1, 9, 9))])
        await stream.aclose()
        return [engine.keys for engine in engines.actors]

    assert asyncio.run(run()) == [["p0/0"], ["p1/0", "p2/0", "p2/1", "p1/0"]]


def test_the_last_engine_ends_the_run() -> None:
    engines = Engines(1)
    engines.actors[0].dead = True
    with pytest.raises(ActorError, match="no generator is left; the last one: generator died"):
        asyncio.run(make_pool(engines).submit(candidates(0, 1)))


def test_an_aborted_candidate_is_given_up_by_its_engine_and_ignored_if_it_comes() -> None:
    async def run() -> None:
        engines = Engines(2)
        pool = make_pool(engines)
        await pool.submit([*candidates(0, 3), *candidates(1, 3)])
        await pool.abort({"p0/1", "p1/0", "p1/1", "elsewhere"})
        first, second = engines.actors
        assert (first.keys, second.keys, pool.pending) == (["p0/0", "p0/2"], ["p1/2"], 3)
        stream = pool.finished()
        first.finish("p0/1")  # it was finished before the engine heard of it
        first.finish("p0/2")
        assert (await anext(stream)).key == "p0/2"
        await stream.aclose()

    asyncio.run(run())


def test_an_engine_that_is_dead_at_an_abort_is_discarded_and_only_the_others_are_written_again() -> None:
    async def run() -> None:
        engines = Engines(2)
        pool = make_pool(engines)
        dying, other = engines.actors
        await pool.submit([*candidates(0, 2), *candidates(1, 2)])
        dying.dead = True
        await pool.abort({"p0/0"})
        assert (engines.actors, other.keys) == ([other], ["p1/0", "p1/1", "p0/1"])

    asyncio.run(run())


def test_new_candidates_wait_until_those_in_flight_are_written() -> None:
    async def run() -> None:
        engines = Engines(1)
        pool = make_pool(engines)
        (engine,) = engines.actors
        await pool.submit(candidates(0, 1))
        stream = pool.finished()
        reading = asyncio.ensure_future(anext(stream))
        async with asyncio.timeout(20):
            engine_is_quiet = quiet(pool)
            entering = asyncio.ensure_future(engine_is_quiet.__aenter__())
            await asyncio.sleep(0)
            await pool.submit(candidates(1, 2))
            assert (engine.keys, pool.pending, entering.done()) == (["p0/0"], 3, False)
            engine.finish("p0/0")
            await entering
            assert (await reading).key == "p0/0" and engine.keys == ["p0/0"]
            await engine_is_quiet.__aexit__(None, None, None)
        assert engine.keys == ["p0/0", "p1/0", "p1/1"]
        await stream.aclose()

    asyncio.run(run())
