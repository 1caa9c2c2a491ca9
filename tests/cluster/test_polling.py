from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rayalign.cluster.polling import MANY, ROUND, Polls
from tests.coordinator.virtual import run_virtually


async def after(event: asyncio.Event, answer: Any) -> Any:
    await event.wait()
    return answer


def test_calls_come_out_in_the_order_of_their_answers() -> None:
    async def run() -> None:
        polls = Polls()
        events = {name: asyncio.Event() for name in ("first", "second", "third")}
        for name, event in events.items():
            polls.add(name, asyncio.ensure_future(after(event, name.upper())))
        events["third"].set()
        await asyncio.sleep(0.01)
        events["first"].set()
        await asyncio.sleep(0.01)
        answered = await polls.answered(10.0)
        assert [(name, poll.result()) for name, poll in answered] == [("third", "THIRD"), ("first", "FIRST")]
        assert ["first" in polls, "second" in polls] == [False, True]

    asyncio.run(run())


def test_without_an_answer_the_wait_ends_and_the_call_goes_on() -> None:
    async def run() -> None:
        polls, event = Polls(), asyncio.Event()
        polls.add("engine", asyncio.ensure_future(after(event, "late")))
        assert await polls.answered(0.01) == []
        event.set()
        ((engine, poll),) = await polls.answered(10.0)
        assert (engine, poll.result()) == ("engine", "late")

    asyncio.run(run())


def test_where_many_candidates_are_in_flight_the_next_answers_come_out_together() -> None:
    async def run() -> None:
        polls = Polls()
        loop = asyncio.get_running_loop()
        polls.add("first", asyncio.ensure_future(asyncio.sleep(0.0)))
        assert [name for name, _ in await polls.answered(10.0, in_flight=MANY)] == ["first"]
        start = loop.time()
        polls.add("second", asyncio.ensure_future(asyncio.sleep(0.01)))
        polls.add("third", asyncio.ensure_future(asyncio.sleep(0.02)))
        answered = await polls.answered(10.0, in_flight=MANY)
        assert [name for name, _ in answered] == ["second", "third"]
        assert loop.time() - start == pytest.approx(ROUND, abs=0.001)

    run_virtually(run())


def test_calls_that_are_under_way_can_be_given_up() -> None:
    async def run() -> None:
        polls = Polls()
        poll = asyncio.ensure_future(after(asyncio.Event(), None))
        polls.add("engine", poll)
        polls.cancel()
        await asyncio.wait([poll], timeout=10.0)
        assert poll.cancelled()

    asyncio.run(run())
