"""The weight channel, and what becomes of engines that deviate from the probe, over stand-ins of actors: no Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rayalign.cluster.channel import WeightChannel, prove
from rayalign.cluster.group import ActorGroup
from rayalign.cluster.pool import GeneratorPool
from rayalign.config import LoraConfig
from rayalign.errors import DeadlineError, LostError, WeightError
from rayalign.storage.events import EventLog
from rayalign.weights.paths.base import Header, PathConfig
from rayalign.weights.probe import Bound, Probe

PROBE = Probe(3, ((1, 2, 3),), ((-1.0, -2.0),), tolerance=1e-3)
PATH = PathConfig(name="store", timeout=5.0)


@dataclass
class AnsweringPool:
    """Engines by name, each with the log-probs that it computes; remembers whom it discarded, and why."""

    answers: dict[str, list[list[float]]]
    discarded: dict[str, str] = field(default_factory=dict)

    async def every(self, call: Callable[[Any], Any], timeout: float) -> list[tuple[str, list[list[float]]]]:
        return list(self.answers.items())

    async def discard(self, actor: str, error: Exception) -> None:
        self.discarded[actor] = str(error)

    def enlist(self, actor: str) -> None:
        pass


def prove_with(**answers: list[list[float]]) -> tuple[float, AnsweringPool]:
    pool = AnsweringPool(answers)
    return asyncio.run(prove(cast("GeneratorPool", pool), PROBE, 1.0)), pool


def test_one_engine_that_deviates_is_discarded_and_the_run_goes_on() -> None:
    gap, pool = prove_with(good=[[-1.0, -2.0001]], stale=[[-1.0, -2.5]], also_good=[[-1.0, -2.0]])
    assert gap == pytest.approx(1e-4 / 2**0.5)
    assert list(pool.discarded) == ["stale"]
    assert "version 3" in pool.discarded["stale"]


def test_weights_that_no_engine_agrees_with_end_the_run() -> None:
    with pytest.raises(WeightError, match="stale, mixed or cast"):
        prove_with(first=[[-1.0, -2.5]], second=[[-1.5, -2.0]])


class Remote:
    """A method of a stand-in, which is called as Ray calls an actor's."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.remote = method


class StandInEngine:
    """An engine's actor whose log-probs are off by `gap`; remembers the headers that it received."""

    def __init__(self) -> None:
        self.gap = 0.0
        self.headers: list[Header] = []
        self.gave_up = 0
        self.give_up = Remote(self._give_up)
        self.open_path = Remote(lambda path: None)
        self.receive = Remote(self._receive)
        self.score = Remote(lambda token_ids: [[-1.0 + self.gap, -2.0 - self.gap]])

    def _receive(self, header: Header, restarts: bool) -> int:
        self.headers.append(header)
        return 0

    def _give_up(self) -> None:
        self.gave_up += 1


@dataclass
class StandInPool:
    """A pool of stand-ins, which may never answer."""

    engines: list[StandInEngine]
    hangs: bool = False

    @property
    def group(self) -> Any:
        return SimpleNamespace(actors=self.engines)

    async def admit(self) -> None:
        pass

    async def every(self, call: Callable[[Any], Any], timeout: float) -> list[tuple[StandInEngine, Any]]:
        if self.hangs:
            await asyncio.Event().wait()
        return [(engine, call(engine)) for engine in self.engines]

    def enlist(self, actor: StandInEngine) -> None:
        pass


class StandInPolicy:
    """One rank of a policy."""

    def __init__(self, send: Callable[..., int] = lambda header, generators: 1) -> None:
        self._send = send

    async def all(self, call: Callable[[Any], Any], timeout: float) -> list[Any]:
        actor = SimpleNamespace(
            open_path=Remote(lambda path: None),
            send=Remote(self._send),
            probe=Remote(lambda tokens: [[-1.0, -2.0]]),
        )
        return [call(actor)]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    events = EventLog(tmp_path / "events.jsonl")
    yield events
    events.close()


def transfer(channel: WeightChannel, pool: StandInPool, version: int, policy: StandInPolicy | None = None) -> None:
    sender = cast("ActorGroup", policy or StandInPolicy())
    asyncio.run(channel.transfer(sender, cast("GeneratorPool", pool), version))


def test_the_gap_of_the_first_version_bounds_those_of_later_ones(log: EventLog) -> None:
    channel = WeightChannel(PROBE.token_ids, bound=Bound("fp32"), path=PATH, events=log)
    engine = StandInEngine()
    engine.gap = 1e-5
    transfer(channel, StandInPool([engine]), 0)
    engine.gap = 5e-4
    with pytest.raises(WeightError, match=r"version 1: log-probs differ by 0\.0005 nats .*, allowed 0\.0001"):
        transfer(channel, StandInPool([engine]), 1)
    # At the first version, where nothing was measured, it would have passed.
    first = WeightChannel(PROBE.token_ids, bound=Bound("fp32"), path=PATH, events=log)
    transfer(first, StandInPool([engine]), 0)


def test_a_base_goes_before_its_adapter_to_engines_that_do_not_have_it(log: EventLog) -> None:
    lora = LoraConfig()
    channel = WeightChannel(PROBE.token_ids, bound=Bound("fp32"), path=PATH, events=log, adapter=lora)
    first, later = StandInEngine(), StandInEngine()
    transfer(channel, StandInPool([first]), 0)
    transfer(channel, StandInPool([first]), 1)
    adapters = [Header("adapter", version, "adapter", lora) for version in range(3)]
    assert first.headers == [Header("full", 0, "base"), adapters[0], adapters[1]]
    transfer(channel, StandInPool([later]), 2)  # in the place of the first, which was lost
    assert later.headers == [Header("full", 2, "base"), adapters[2]]


def test_a_policy_that_is_lost_while_it_sends_leaves_no_engine_waiting(log: EventLog) -> None:
    def die(header: Header, generators: list[Any]) -> int:
        raise LostError("policy (pid 7) died: its process has died")

    channel = WeightChannel(PROBE.token_ids, bound=Bound("fp32"), path=PATH, events=log)
    engines = [StandInEngine(), StandInEngine()]
    with pytest.raises(LostError, match="policy"):
        transfer(channel, StandInPool(engines), 1, StandInPolicy(die))
    assert [engine.gave_up for engine in engines] == [1, 1]


def test_engines_that_never_answer_end_in_the_channels_deadline(log: EventLog) -> None:
    path = PathConfig(name="store", timeout=0.05)
    channel = WeightChannel(PROBE.token_ids, bound=Bound("fp32"), path=path, events=log)
    with pytest.raises(DeadlineError, match="weights of version 4 were not proven within 0 s; .*transfer_timeout"):
        transfer(channel, StandInPool([StandInEngine()], hangs=True), 4)
