"""The cache of merged adapters: one merge for each set of weights, a bound, and no adapter removed while it is used."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from rayalign.config import Profile, load_registry
from rayalign.errors import DeadlineError, InputError
from rayalign.rollout.chat import ChatAdapter
from rayalign.serving.merged import MergedAdapters

REGISTRY = load_registry()
DIGESTS = {"P1A": "a", "P2B": "b", "P3A": "c"}
Open = Callable[..., MergedAdapters]


def profile(**weights: float) -> Profile:
    return REGISTRY.profile(weights)


class Writer:
    """Notes what is merged, and writes the profile's name; `gate` holds merges back."""

    def __init__(self) -> None:
        self.profiles: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, merged: Profile, folder: Path) -> None:
        assert self.gate.wait(10.0)
        if dict(merged).get("P3A") == 13.0:
            raise InputError("an adapter is damaged")
        self.profiles.append(str(merged))
        folder.mkdir()
        (folder / "name").write_text(str(merged))


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def opened(tmp_path: Path, writer: Writer) -> Iterator[Open]:
    """Opens a cache in one folder; `forgotten` collects what the engine must forget."""
    caches: list[MergedAdapters] = []

    def make(
        limit: int = 2, *, base: str = "base", timeout: float = 5.0, forgotten: list[ChatAdapter] | None = None
    ) -> MergedAdapters:
        forget = [].append if forgotten is None else forgotten.append
        caches.append(MergedAdapters(tmp_path, limit, (base, DIGESTS), writer, forget, timeout))
        return caches[-1]

    yield make
    for cache in caches:
        cache.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20.0))


async def used(cache: MergedAdapters, **weights: float) -> ChatAdapter:
    async with cache.using(profile(**weights)) as adapter:
        assert Path(adapter.folder, "name").read_text() == str(profile(**weights))
        return adapter


def test_equal_weights_at_once_are_merged_once(opened: Open, writer: Writer) -> None:
    async def work() -> None:
        cache = opened()
        writer.gate.clear()
        waiting = [asyncio.create_task(used(cache, P1A=0.5, P2B=0.5)) for _ in range(8)]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in waiting)
        writer.gate.set()
        adapters = await asyncio.gather(*waiting)
        assert len(set(adapters)) == 1 and writer.profiles == ["P1A*0.5+P2B*0.5"]
        assert cache.state.merges == 1

    run(work())


def test_a_request_that_goes_does_not_take_the_merge_of_others_with_it(opened: Open, writer: Writer) -> None:
    async def work() -> None:
        cache = opened()
        writer.gate.clear()
        first, second = (asyncio.create_task(used(cache, P1A=1)) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        writer.gate.set()
        assert (await second).number == 1 and writer.profiles == ["P1A"]

    run(work())


def test_the_least_recently_used_goes_and_the_engine_forgets_it(opened: Open, writer: Writer) -> None:
    forgotten: list[ChatAdapter] = []

    async def work() -> None:
        cache = opened(2, forgotten=forgotten)
        first, second = await used(cache, P1A=1), await used(cache, P2B=1)
        assert await used(cache, P1A=1) == first
        third = await used(cache, P3A=1)
        assert forgotten == [second] and not Path(second.folder).exists() and Path(first.folder).exists()
        again = await used(cache, P2B=1)
        assert again.number not in {first.number, second.number, third.number}
        assert writer.profiles == ["P1A", "P2B", "P3A", "P2B"]
        assert (cache.state.adapters, cache.state.merges, cache.state.evictions) == (2, 4, 2)

    run(work())


def test_what_is_in_use_stays_and_others_wait_for_its_release(opened: Open) -> None:
    async def work() -> None:
        cache = opened(1)
        async with cache.using(profile(P1A=1)) as adapter:
            waiting = asyncio.create_task(used(cache, P2B=1))
            await asyncio.sleep(0.05)
            assert not waiting.done() and Path(adapter.folder).exists()
            assert await used(cache, P1A=1) == adapter
        await waiting
        assert not Path(adapter.folder).exists()

    run(work())


def test_a_wait_for_room_has_a_deadline(opened: Open) -> None:
    async def work() -> None:
        cache = opened(2, timeout=0.05)
        async with AsyncExitStack() as held:
            for weights in ({"P1A": 1.0}, {"P2B": 1.0}):
                await held.enter_async_context(cache.using(profile(**weights)))
            with pytest.raises(DeadlineError, match="all 2 merged adapters that are kept were in use for 0.05 s"):
                await used(cache, P3A=1)

    run(work())


def test_a_merge_that_fails_is_no_entry(opened: Open) -> None:
    async def work() -> None:
        cache = opened(1)
        for _ in range(2):
            with pytest.raises(InputError, match="an adapter is damaged"):
                await used(cache, P3A=13)
        await used(cache, P1A=1)
        assert (cache.state.merges, cache.state.adapters) == (1, 1)

    run(work())


def test_another_process_finds_what_was_merged_in_the_order_of_use(
    opened: Open, writer: Writer, tmp_path: Path
) -> None:
    async def first() -> None:
        cache = opened(3)
        for weights in ({"P1A": 1.0}, {"P2B": 1.0}, {"P3A": 1.0}, {"P1A": 1.0}):
            await used(cache, **weights)
            await asyncio.sleep(0.01)
        cache.close()

    run(first())
    (tmp_path / ".half.tmp").mkdir()

    async def second() -> None:
        cache = opened(2)
        await used(cache, P3A=1)
        await used(cache, P1A=1)
        assert cache.state.merges == 0
        await used(cache, P2B=1)
        assert cache.state.merges == 1

    run(second())
    assert writer.profiles == ["P1A", "P2B", "P3A", "P2B"]
    assert not (tmp_path / ".half.tmp").exists()


def test_the_key_is_of_base_adapters_and_weights(opened: Open) -> None:
    cache = opened()
    key = cache.key(profile(P1A=0.5, P2B=0.5))
    cache.close()
    assert key == opened().key(profile(P2B=0.5, P1A=0.5))
    others = [profile(P1A=0.5, P2B=0.25), profile(P1A=0.5, P3A=0.5), profile(P1A=0.5)]
    assert key not in set(map(cache.key, others))


def test_another_base_has_other_keys(opened: Open) -> None:
    cache = opened()
    cache.close()
    assert cache.key(profile(P1A=1)) != opened(base="another").key(profile(P1A=1))


def test_a_folder_serves_one_process(opened: Open) -> None:
    opened()
    with pytest.raises(InputError, match="in use by another served policy; give another --cache"):
        opened()
