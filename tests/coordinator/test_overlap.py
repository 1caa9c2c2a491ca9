"""The rollout loop with more prompts than an iteration needs: what is dropped, what comes later, what it costs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from rayalign.coordinator.recovery import recover
from rayalign.coordinator.rollouts import NOT_NEEDED
from rayalign.coordinator.window import place_of
from rayalign.errors import ActorError
from rayalign.rollout.base import Finished, Request
from rayalign.storage.checkpoints import CheckpointStore
from rayalign.storage.journal import Accounting
from rayalign.types import Group, Score
from tests.coordinator.test_rollouts import Bench, Reward, lengths
from tests.coordinator.virtual import run_virtually

DROP: dict[str, Any] = {"overlap": {"extra_prompts": 2}}
LATER: dict[str, Any] = {"max_staleness": 1, "overlap": {"extra_prompts": 1, "tail": "later"}}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def build(*arguments: Any, **settings: Any) -> Bench:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Bench(folder, *arguments, **settings))
        return made[-1]

    yield build
    for bench in made:
        bench.close.close()


def slow(*places: tuple[int, int]) -> Callable[[Request], Sequence[int]]:
    """A script by which the answers of some places are of 20 tokens, all others of 3."""

    def script(request: Request) -> list[int]:
        return [3] * 19 + [0] if place_of(request.key) in places else [3, 3, 0]

    return script


def ids(groups: Sequence[Group]) -> list[str]:
    return [group.id for group in groups]


def test_the_last_group_of_an_iteration_waits_for_none_of_the_next_one(make: Callable[..., Bench]) -> None:
    """Its place is the slow one; engines are by then writing the next iteration's answers."""
    bench = make(max_staleness=1, deterministic=False, script=slow((0, 2), (1, 2)), iterations=2)
    put, followed = bench.loop.scoring.put, dict[str, bool]()  # type: ignore[union-attr]

    def note(group: Group, *, others_follow: bool) -> None:
        followed[group.id] = others_follow
        put(group, others_follow=others_follow)

    bench.loop.scoring.put = note  # type: ignore[method-assign, union-attr]
    bench.run()
    assert [group for group, others in followed.items() if not others] == ["00000-0002.0", "00001-0002.0"]
    assert len(followed) == 6


def test_the_tail_of_an_iteration_is_dropped_counted_and_aborted(make: Callable[..., Bench]) -> None:
    bench = make(**DROP, script=slow((0, 0), (0, 3)))
    taken = bench.run()
    assert ids(taken[0]) == ["00000-0001.0", "00000-0002.0", "00000-0004.0"]
    aborted = next(keys for kind, keys in bench.log if kind == "aborted")
    assert aborted == ["00000-0000.0/0", "00000-0000.0/1", "00000-0003.0/0", "00000-0003.0/1"]
    assert bench.loop.figures(0) == {"rollout/rejected": 0, "rollout/dropped": 2, "rollout/late": 0}
    assert [len(groups) for groups in taken] == [3] * 4 and not bench.pool.engine.pending
    assert set(bench.account.dropped.values()) == {NOT_NEEDED} and len(bench.account.dropped) == 4 * 2
    bench.account.check(ended=True)


def test_each_place_of_each_iteration_has_a_prompt_of_its_own(make: Callable[..., Bench]) -> None:
    bench = make(**DROP)
    bench.run()
    submitted = [entry["prompt"] for entry in bench.journal.replay() if entry["kind"] == "submitted"]
    assert len(submitted) == len(set(submitted)) == 4 * 5


def test_a_group_that_is_given_up_while_it_is_scored_stays_dropped(make: Callable[..., Bench]) -> None:
    class Slow(Reward):
        """Scores the group of place 0 last."""

        async def steady(self, rank: int, call: Callable[[Any], Any]) -> Any:
            answer = await super().steady(rank, call)
            if "00000-0000.0" in self.asked[-1]:
                for _ in range(60):
                    await asyncio.sleep(0)
            return answer

    bench = make(Slow(lengths, replicas=2), overlap={"extra_prompts": 1}, deterministic=False, iterations=2)
    bench.loop.scoring._alone = True  # type: ignore[union-attr]
    taken = bench.run()
    assert ids(taken[0]) == ["00000-0001.0", "00000-0002.0", "00000-0003.0"]
    assert bench.account.dropped["00000-0000.0"] == NOT_NEEDED
    bench.account.check(ended=True)


def test_failed_groups_are_replaced_while_their_iteration_is_open_and_not_after(make: Callable[..., Bench]) -> None:
    failing = [f"{iteration:05d}-{slot:04d}.0" for iteration in range(4) for slot in range(4)]
    bench = make(**DROP, fail=failing)
    assert [len(groups) for groups in bench.run()] == [3] * 4
    bench.account.check(ended=True)


def test_a_tail_for_later_is_taken_by_the_next_iteration_and_nothing_is_dropped(make: Callable[..., Bench]) -> None:
    bench = make(**LATER, script=slow((0, 1), (2, 2)))
    taken = bench.run()
    assert ids(taken[0]) == ["00000-0000.0", "00000-0002.0", "00001-0000.0"]
    assert ids(taken[1]) == ["00000-0001.0", "00001-0001.0", "00001-0002.0"]
    assert [bench.loop.figures(i)["rollout/late"] for i in range(4)] == [0, 1, 0, 1]
    places = [place_of(group.id) for groups in taken for group in groups]
    assert sorted(places) == [(i, slot) for i in range(4) for slot in range(3)]
    assert max(i - group.version for i, groups in enumerate(taken) for group in groups) == 1
    assert not bench.account.dropped
    bench.account.check(ended=True)


class Mortal(Bench):
    """Goes on from its journal and its checkpoints, and is killed after so many moments."""

    def resume(self, moments: float) -> list[list[Group]]:
        settings = self.settings
        self.checkpoints = CheckpointStore(self.journal.path.parent / "checkpoints", keep=1)
        carries = settings.overlap is not None and settings.overlap.tail == "later"
        resumption = recover(
            self.journal,
            self.checkpoints,
            scored=True,
            max_staleness=settings.max_staleness,
            deterministic=False,
            carries=carries,
        )
        self.loop.resume(resumption.iteration, resumption.groups, resumption.serials, resumption.consumed)
        self._moments = moments
        return self.run(resumption.iteration)

    async def _publish(self, version: int) -> None:
        if version % 2 == 0:
            manifest = {"iteration": version, "journal": self.journal.position, "state": {}}
            self.checkpoints.commit(self.checkpoints.begin(version), manifest)  # type: ignore[arg-type]
        await super()._publish(version)

    async def _train(self, first: int) -> list[list[Group]]:
        training = asyncio.ensure_future(super()._train(first))
        while not training.done():
            await asyncio.sleep(0)
            self._moments -= 1
            if self._moments < 0:
                training.cancel()
                raise ActorError("killed")
        return training.result()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "settings", [DROP, LATER, {"max_staleness": 2, "overlap": {"extra_prompts": 2, "tail": "later"}}]
)
def test_kills_lose_and_double_nothing(settings: dict[str, Any], seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    script = slow((0, 1), (1, 0), (2, 2), (3, 1))
    for moments in [*(dice.randrange(400) for _ in range(4)), float("inf")]:
        bench = Mortal(tmp_path, **settings, iterations=5, script=script)
        with closing(bench.close):
            try:
                bench.resume(moments)
            except ActorError:
                continue
            account = Accounting.of(bench.journal.replay(effective=True))
            account.check(ended=True)
            assert len(account.consumed) == 5 * 3
            ends = [entry for entry in bench.journal.replay(effective=True) if entry["kind"] == "consumed"]
            assert [entry["iteration"] for entry in ends] == list(range(5))
            versions = versions_of(bench)
            for entry in ends:
                assert all(
                    entry["iteration"] - versions[name] <= bench.settings.max_staleness for name in entry["groups"]
                )


def versions_of(bench: Bench) -> dict[str, int]:
    """The oldest version of each finished group."""
    versions: dict[str, int] = {}
    for entry in bench.journal.replay(effective=True):
        if entry["kind"] == "finished":
            segments = [s for t in entry["group"]["trajectories"] for s in t["segments"] if s["author"] == "policy"]
            versions[entry["group"]["id"]] = min(segment["version"] for segment in segments)
    return versions


class Waiting:
    """A pool whose answers take time: `seconds` of a request, at most `width` of them at once, in their order."""

    def __init__(self, seconds: Callable[[Request], float], width: int) -> None:
        self._seconds, self._places = seconds, asyncio.Semaphore(width)
        self._finished: asyncio.Queue[Finished] = asyncio.Queue()
        self._writing: dict[str, asyncio.Future[None]] = {}
        self.version = 0

    @property
    def pending(self) -> int:
        return len(self._writing)

    async def submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._writing[request.key] = asyncio.ensure_future(self._write(request, self.version))

    async def abort(self, keys: Collection[str]) -> None:
        for key in keys:
            self._writing.pop(key).cancel()

    async def _write(self, request: Request, version: int) -> None:
        async with self._places:
            await asyncio.sleep(self._seconds(request))
        del self._writing[request.key]
        await self._finished.put(Finished(request.key, (3, 0), (-1.0, -1.0), ((0, version),), "stop"))

    async def finished(self) -> AsyncGenerator[Finished, None]:
        while True:
            yield await self._finished.get()


class SlowReward(Reward):
    """Scores each group in so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(lambda group: (Score(1.0), Score(0.0)))
        self._seconds = seconds

    async def steady(self, rank: int, call: Callable[[Any], Any]) -> Any:
        answer = await super().steady(rank, call)
        await asyncio.sleep(self._seconds * len(self.asked[-1]))
        return answer


def timed(
    bench: Bench, update: float, seconds: Callable[[Request], float], width: int, first: int = 2
) -> tuple[float, float]:
    """Virtual seconds between two updates after the first ones, and the staleness of a group, both in the mean."""
    lags: list[int] = []

    async def train() -> float:
        pool = Waiting(seconds, width)
        bench.loop.assembler._pool = pool  # type: ignore[assignment]
        rollouts = asyncio.ensure_future(bench.loop.run())
        await bench.loop.published(0)
        for iteration in range(bench.settings.iterations):
            if iteration == first:
                start = asyncio.get_running_loop().time()
            groups = await bench.loop.take(iteration)
            lags.extend(iteration - group.version for group in groups)
            await asyncio.sleep(update)
            pool.version = iteration + 1
            await bench.loop.published(iteration + 1)
        total = asyncio.get_running_loop().time() - start
        rollouts.cancel()
        await asyncio.gather(rollouts, return_exceptions=True)
        return total / (bench.settings.iterations - first)

    return run_virtually(train()), mean(lags)


@pytest.mark.parametrize(
    ("generate", "score", "update"), [(8.0, 1.0, 8.0), (8.0, 1.0, 2.0), (4.0, 1.0, 12.0), (4.0, 8.0, 4.0)]
)
def test_one_version_of_staleness_hides_the_shorter_side(
    generate: float, score: float, update: float, make: Callable[..., Bench]
) -> None:
    """Where time is latency, an iteration takes at most 1.1 times its longer side; without staleness it takes both."""
    prompts = 16
    shape = {"prompts": prompts, "iterations": 12, "timeout": 1e6}

    def even(request: Request) -> float:
        return generate / prompts

    def measured(staleness: int) -> float:
        bench = make(SlowReward(score / prompts), max_staleness=staleness, **shape)
        return timed(bench, update, even, width=2)[0]  # both candidates of a group at once

    scored = max(generate, score) + min(generate, score) / prompts  # groups are scored while others are written
    assert measured(0) == pytest.approx(scored + update, rel=0.05)
    assert measured(1) <= 1.1 * max(generate, score, update)


def test_a_tail_costs_less_where_it_may_be_left(make: Callable[..., Bench]) -> None:
    """One answer in fifteen takes ten times as long; all are written at once, so the longest is what is awaited.

    Later answers hide as much of it as a version of staleness for all of them, and nearly all stay of the present
    weights.
    """

    def uneven(request: Request) -> float:
        return 10.0 if place_of(request.key)[1] == 3 else 1.0

    def measured(**settings: Any) -> tuple[float, float]:
        return timed(make(prompts=15, iterations=12, timeout=1e6, **settings), 1.0, uneven, width=1000)

    assert measured() == (pytest.approx(11.0), 0.0)
    assert measured(overlap={"extra_prompts": 1}) == (pytest.approx(2.0), 0.0)
    stale, staleness = measured(max_staleness=1)
    later, lag = measured(max_staleness=1, overlap={"extra_prompts": 2, "tail": "later"})
    assert stale == pytest.approx(5.5, rel=0.1) and later == pytest.approx(stale, rel=0.1)
    assert staleness > 0.9 and lag < 0.25
