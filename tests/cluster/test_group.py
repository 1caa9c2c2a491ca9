from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch

from rayalign.actors.hosted import GROUPS, HostedActor
from rayalign.cluster.group import ActorGroup
from rayalign.cluster.traffic import arrays_in
from rayalign.errors import ActorError, CapacityError, DeadlineError, LostError
from rayalign.rollout.base import Finished
from rayalign.storage.events import EventLog
from rayalign.types import Candidate, Rollouts, Score


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([[0.5, 0.25], [1.0]], (0, False)),
        ({"loss": 1.0, "names": ["a"]}, (0, False)),
        ([Candidate("text", score=0.5)], (0, False)),
        ([Finished("a/0", (1, 2), (-0.5, -0.25)), (Score(1.0),)], (0, False)),
        (torch.zeros(3, 4), (48, True)),
        ([(1, {"x": np.zeros(2)})], (16, True)),
        (Rollouts(*(torch.zeros(2, 2, dtype=torch.long) for _ in range(3)), torch.zeros(2)), (104, True)),
    ],
)
def test_tensors_are_seen_wherever_they_stand(value: Any, expected: tuple[int, bool]) -> None:
    found = arrays_in(value)
    assert (sum(array.nbytes for array in found), bool(found)) == expected


@pytest.fixture(params=[0, 2], ids=["through Ray", "over wires"])
def clerks(request: pytest.FixtureRequest, ray_session: None, events: EventLog) -> Iterator[ActorGroup]:
    # in here, so that it goes to the workers by value
    class Clerk(HostedActor):
        """An actor that does as it is told."""

        def __init__(self, number: int) -> None:
            self.number = number

        def tell(self) -> int:
            return self.number

        def fail(self) -> None:
            print("the ink is dry", flush=True)
            raise KeyError("no such drawer")

        def refuse(self) -> None:
            raise CapacityError("the desk is full; take another one")

        def sleep(self, seconds: float) -> None:
            time.sleep(seconds)

    kind = ray.remote(concurrency_groups=GROUPS)(Clerk).options(num_cpus=0)
    actors = [kind.remote(i) for i in range(2)]
    threads: int = request.param
    group = ActorGroup("clerk", actors, events=events, timeout=300.0, heartbeat=8.0, wire_threads=threads)
    asyncio.run(group.locate(300.0))
    asyncio.run(group.connect(*actors))
    assert all((group.wires.to(actor) is actor) == (threads == 0) for actor in actors)
    yield group
    group.kill()


@pytest.mark.ray
def test_answers_come_in_the_order_of_ranks_and_are_logged(
    clerks: ActorGroup, logged: Callable[[str], list[dict[str, Any]]]
) -> None:
    assert asyncio.run(clerks.all(lambda actor: clerks.wires.to(actor).tell.remote())) == [0, 1]
    assert asyncio.run(clerks.first(lambda actor: clerks.wires.to(actor).tell.remote())) == 0
    started = logged("actor_started")[-2:]
    assert [(row["role"], row["rank"], row["actor_pid"]) for row in started] == [
        ("clerk", rank, clerks.pid(actor)) for rank, actor in enumerate(clerks.actors)
    ]
    received = logged("received")[-1]
    assert (received["role"], received["tensor"]) == ("clerk", False)


@pytest.mark.ray
def test_a_failure_names_role_process_cause_and_last_log_lines(clerks: ActorGroup) -> None:
    with pytest.raises(ActorError) as caught:
        asyncio.run(clerks.first(lambda actor: clerks.wires.to(actor).fail.remote()))
    head, tail = str(caught.value).split("\nlast log lines:\n")
    assert head == f"clerk rank 0 (pid {clerks.pid(clerks.actors[0])}) failed: KeyError: 'no such drawer'"
    assert "the ink is dry" in tail.splitlines()


@pytest.mark.ray
def test_an_error_of_our_own_comes_through_as_it_is(clerks: ActorGroup) -> None:
    with pytest.raises(CapacityError, match="^the desk is full; take another one$"):
        asyncio.run(clerks.all(lambda actor: clerks.wires.to(actor).refuse.remote()))


@pytest.mark.ray
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, r"died: its process has died on \S+ without an exit code.*"),
        (signal.SIGSTOP, r"is lost on \S+: its process is stopped \(SIGSTOP\).*; it held \d\.\d GiB.*"),
    ],
)
def test_a_killed_or_stopped_process_is_named_in_one_sentence(
    clerks: ActorGroup, number: signal.Signals, words: str
) -> None:
    pid = clerks.pid(clerks.actors[1])
    start = time.monotonic()

    async def strike_it_at_work() -> None:
        work = asyncio.ensure_future(clerks.all(lambda actor: clerks.wires.to(actor).sleep.remote(60)))
        await asyncio.sleep(5.0)  # a heartbeat or two
        os.kill(pid, number)
        await work

    with pytest.raises(LostError, match=rf"^clerk rank 1 \(pid {pid}\) {words}$") as caught:
        asyncio.run(strike_it_at_work())
    assert time.monotonic() - start < 30.0
    assert "common causes" not in str(caught.value), "Ray's paragraph"
    clerks.discard(clerks.actors[1])
    with pytest.raises(psutil.NoSuchProcess):
        psutil.Process(pid).wait(10)
        psutil.Process(pid)


@pytest.mark.ray
def test_who_does_not_answer_in_time_is_named(clerks: ActorGroup) -> None:
    with pytest.raises(DeadlineError, match=r"clerk rank \d \(pid \d+\) did not answer within 1 s"):
        asyncio.run(clerks.all(lambda actor: clerks.wires.to(actor).sleep.remote(20), timeout=0.6))


@pytest.mark.ray
def test_an_actor_whose_connection_ends_is_lost_though_it_lives(clerks: ActorGroup) -> None:
    actor = clerks.actors[1]
    if clerks.wires.to(actor) is actor:
        pytest.skip("this group has no wires")

    async def work() -> None:
        call = asyncio.ensure_future(clerks.one(actor, lambda actor: clerks.wires.to(actor).sleep.remote(60)))
        await asyncio.sleep(0.5)
        await clerks.one(actor, lambda actor: actor.hang_up.remote())
        await call

    words = rf"^clerk rank 1 \(pid {clerks.pid(actor)}\) is lost on \S+: its connection to the coordinator has ended"
    with pytest.raises(LostError, match=words):
        asyncio.run(work())
