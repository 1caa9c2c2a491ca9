from __future__ import annotations

import asyncio

from rayalign.annotator.endpoints.breaker import Breaker


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, future))
        await future

    async def move_to(self, now: float) -> None:
        while due := [entry for entry in self._sleepers if entry[0] <= now]:
            self.now, future = min(due, key=lambda entry: entry[0])
            self._sleepers = [entry for entry in self._sleepers if entry[1] is not future]
            future.set_result(None)
            for _ in range(5):
                await asyncio.sleep(0)
        self.now = now


def tripped(time: Time) -> Breaker:
    breaker = Breaker(lambda: time.now, time.sleep)
    for _ in range(10):
        breaker.note(False, False)
    return breaker


def test_failures_in_a_row_open_it_and_others_do_not() -> None:
    async def run() -> None:
        time = Time()
        breaker = Breaker(lambda: time.now, time.sleep)
        for _ in range(5):
            for _ in range(9):
                breaker.note(False, False)
            breaker.note(False, True)
        assert await breaker.admit(1.0) is False
        assert time.now == 0.0

    asyncio.run(run())


def test_one_probe_at_a_time_until_one_succeeds() -> None:
    async def run() -> None:
        time = Time()
        breaker = tripped(time)
        waiting = [asyncio.create_task(breaker.admit(100.0)) for _ in range(3)]
        await asyncio.sleep(0)
        await time.move_to(0.99)
        assert not any(task.done() for task in waiting)
        await time.move_to(2.0)
        assert [task.done() for task in waiting] == [True, False, False]
        assert waiting[0].result() is True
        breaker.note(True, False)  # the next probe is 2 s later
        await time.move_to(3.9)
        assert not waiting[1].done()
        await time.move_to(4.2)
        assert [task.done() for task in waiting] == [True, True, False]
        breaker.note(True, True)
        await time.move_to(4.3)
        assert waiting[2].result() is False
        assert await breaker.admit(100.0) is False

    asyncio.run(run())


def test_a_probe_given_up_makes_room_for_another() -> None:
    async def run() -> None:
        time = Time()
        breaker = tripped(time)
        time.now = 1.0
        assert await breaker.admit(100.0) is True
        breaker.note(True, None)
        assert await breaker.admit(100.0) is True

    asyncio.run(run())


def test_it_stays_open_as_long_as_the_endpoint_asked_and_waiters_leave_at_their_deadline() -> None:
    async def run() -> None:
        time = Time()
        breaker = tripped(time)
        time.now = 1.0
        assert await breaker.admit(100.0) is True
        breaker.note(True, False, retry_after=50.0)
        brief, patient = (asyncio.create_task(breaker.admit(deadline)) for deadline in (30.0, 100.0))
        await asyncio.sleep(0)
        await time.move_to(50.9)
        assert brief.result() is False
        assert not patient.done()
        await time.move_to(51.0)
        assert patient.result() is True

    asyncio.run(run())
