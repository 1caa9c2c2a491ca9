from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from rayalign.config.sections import SamplingConfig
from rayalign.errors import ActorError, DeadlineError, WeightError
from rayalign.rollout.base import Finished, Request
from rayalign.rollout.loop import EngineLoop
from rayalign.rollout.scripted import ScriptedEngine, random_table
from rayalign.weights.sets import WeightSet

WAIT = 20.0


class Breaking(ScriptedEngine):
    """Fails at its third step."""

    steps = 0

    def step(self) -> list[Finished]:
        self.steps += 1
        if self.steps == 3:
            raise RuntimeError("out of device memory")
        return super().step()


def _request(name: str, tokens: int = 4) -> Request:
    return Request(name, (1, 2), 7, SamplingConfig(max_tokens=tokens), ())


def _engine() -> ScriptedEngine:
    return ScriptedEngine(random_table(16))


@pytest.fixture
def loop() -> Iterator[EngineLoop]:
    loop = EngineLoop(_engine)
    yield loop
    loop.close(WAIT)


def _collect(loop: EngineLoop, count: int) -> list[Finished]:
    found: list[Finished] = []
    while len(found) < count:
        batch = loop.collect(WAIT)
        assert batch, "nothing came"
        found += batch
    return found


def test_candidates_come_out_as_from_the_bare_engine(loop: EngineLoop) -> None:
    loop.submit([_request("long", 9), _request("short", 2)])
    found = _collect(loop, 2)
    bare = _engine()
    for request in (_request("long", 9), _request("short", 2)):
        bare.submit(request)
    expected = [f for _ in range(9) for f in bare.step()]
    assert found == expected
    assert [f.key for f in found] == ["short", "long"]


def test_the_engine_is_made_and_stepped_by_one_thread_and_rests_when_idle() -> None:
    threads: list[int] = []

    class Watched(ScriptedEngine):
        def __init__(self) -> None:
            super().__init__(random_table(16))
            threads.append(threading.get_ident())

        def step(self) -> list[Finished]:
            threads.append(threading.get_ident())
            return super().step()

    loop = EngineLoop(Watched)
    loop.submit([_request("a", 4)])
    _collect(loop, 1)
    assert loop.collect(0.05) == []
    assert len(threads) == 1 + 4
    assert set(threads) == {loop.call(lambda _: threading.get_ident(), WAIT)} != {threading.get_ident()}
    loop.close(WAIT)


def test_calls_are_served_while_candidates_are_written() -> None:
    loop = EngineLoop(lambda: ScriptedEngine(random_table(16), context=1 << 20))
    loop.submit([_request("endless", 1 << 19)])
    loop.call(lambda engine: engine.load(WeightSet("full", 5, [("bigram.weight", random_table(16, 1))])), WAIT)
    assert loop.call(lambda engine: (engine.version, engine.pending), WAIT) == (5, 1)
    loop.submit([_request("short")])
    assert [f.key for f in _collect(loop, 1)] == ["short"]
    loop.close(WAIT)


def test_a_paused_loop_accepts_candidates_and_writes_none(loop: EngineLoop) -> None:
    loop.pause(WAIT)
    loop.submit([_request("a")])
    assert loop.call(lambda engine: engine.pending, WAIT) == 1
    assert loop.collect(0.05) == []
    loop.resume(WAIT)
    assert [f.key for f in _collect(loop, 1)] == ["a"]


def test_a_failing_step_ends_the_loop() -> None:
    loop = EngineLoop(lambda: Breaking(random_table(16)))
    loop.submit([_request("short", 1), _request("long", 9)])
    assert [f.key for f in _collect(loop, 1)] == ["short"]
    for attempt in (lambda: loop.collect(WAIT), lambda: loop.submit([_request("b")]), lambda: loop.pause(WAIT)):
        with pytest.raises(ActorError, match="RuntimeError: out of device memory") as caught:
            attempt()
        assert isinstance(caught.value.__cause__, RuntimeError)
    loop.close(WAIT)


def test_a_failing_factory_is_told_at_the_first_call() -> None:
    def factory() -> ScriptedEngine:
        raise OSError("no such model")

    loop = EngineLoop(factory)
    with pytest.raises(ActorError, match="no such model"):
        loop.call(lambda engine: engine.version, WAIT)
    loop.close(WAIT)


def test_a_failing_load_is_raised_as_it_is_and_ends_the_loop() -> None:
    loop = EngineLoop(_engine)
    with pytest.raises(WeightError, match="did not come"):
        loop.call(lambda engine: engine.load(WeightSet("full", 1, [])), WAIT)
    with pytest.raises(WeightError, match="did not come"):
        loop.submit([_request("a")])


def test_a_call_that_comes_too_late_is_not_done(loop: EngineLoop) -> None:
    begun, release, done = threading.Event(), threading.Event(), []

    def occupy(_: object) -> None:
        begun.set()
        release.wait(WAIT)

    occupier = threading.Thread(target=lambda: loop.call(occupy, WAIT))
    occupier.start()
    begun.wait(WAIT)
    with pytest.raises(DeadlineError, match="within 0.05 s"):
        loop.call(lambda _: done.append("late"), 0.05)
    release.set()
    occupier.join()
    loop.call(lambda _: None, WAIT)
    assert done == []


def test_a_closed_loop_refuses() -> None:
    loop = EngineLoop(_engine)
    loop.close(WAIT)
    with pytest.raises(ActorError, match="was closed"):
        loop.submit([_request("a")])
    with pytest.raises(ActorError, match="was closed"):
        loop.collect(WAIT)
