"""What becomes of each of Ray's errors."""

from __future__ import annotations

from typing import Any

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    OwnerDiedError,
    RayActorError,
    RayError,
    RaySystemError,
    RayTaskError,
    WorkerCrashedError,
)

from rayalign.actors.hosted import Pulse
from rayalign.actors.place import Place
from rayalign.cluster.causes import explain, precedence
from rayalign.errors import ActorError, CapacityError, DeadlineError, LostDataError, LostError

PLACE = Place(7, "10.0.0.2", 4000, node="beef" * 8)
KILLED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by SIGKILL by OOM killer due to high memory usage. (2) ray stop --force is called."
)
PRESSURE = "Task was killed due to the node running low on memory.\nMemory on the node (IP: 10.0.0.2) was 15.2GB / 16GB"
NODE = "The actor is dead because its node has died. Node Id: beef. Reason: health check failed"


def died(text: str) -> RayError:
    return RayActorError("a1", text)


def explained(error: RayError, kills: int = 0) -> Any:
    return explain("reward (pid 7)", error, PLACE, Pulse(5 << 30, 0), kills)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (died(KILLED), "its process has died on 10.0.0.2 without an exit code"),
        (died("Worker exits with an exit code 134."), "its process has died on 10.0.0.2 with exit code 134"),
        (ActorDiedError(), "its process has died on 10.0.0.2"),
        (WorkerCrashedError(), "its process has died on 10.0.0.2"),
        (OutOfMemoryError(PRESSURE), "Ray killed its process on 10.0.0.2, whose machine ran out of memory"),
        (died("Worker exit type: NODE_OUT_OF_MEMORY"), "whose machine ran out of memory"),
        (died(NODE), "its machine on 10.0.0.2 (node beefbeef) is gone"),
        (NodeDiedError("the node is dead"), "its machine on 10.0.0.2 (node beefbeef) is gone"),
        (ActorUnavailableError("connection reset", None), "its process on 10.0.0.2 cannot be reached"),
    ],
)
def test_a_loss_is_told_in_our_words_with_role_machine_and_memory(error: RayError, words: str) -> None:
    loss = explained(error)
    assert type(loss) is LostError
    assert str(loss).startswith("reward (pid 7) died: ")
    assert words in str(loss)
    assert "it held 5.0 GiB at its last heartbeat" in str(loss)
    assert "common causes" not in str(loss), "Ray's paragraph"


def test_a_kill_by_the_kernel_for_memory_is_named() -> None:
    assert "the kernel killed a process on 10.0.0.2 for memory" in str(explained(died(KILLED), kills=1))


def failed(cause: Exception) -> RayError:
    return RayTaskError("f", "Traceback\n  File x\nKeyError: 'no such drawer'", cause)


def test_a_failure_of_the_actors_own_code_is_no_loss() -> None:
    failure = explained(failed(KeyError("no such drawer")))
    assert type(failure) is ActorError
    assert str(failure) == "reward (pid 7) failed: KeyError: 'no such drawer'"


@pytest.mark.parametrize(
    "cause",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RaySystemError("Unable to allocate internal buffer.\nMemoryError: Unable to allocate internal buffer."),
    ],
)
def test_an_actor_without_main_memory_is_lost_since_another_may_have_it(cause: Exception) -> None:
    loss = explained(failed(cause))
    assert type(loss) is LostError
    assert str(loss).startswith("reward (pid 7) ran out of memory on 10.0.0.2: ")
    assert "it held 5.0 GiB" in str(loss)
    assert type(explained(failed(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")))) is ActorError


def test_an_error_of_ours_stays_what_it_is() -> None:
    cause = CapacityError("the desk is full")
    assert explained(failed(cause)) is cause


def test_what_a_lost_actor_had_kept_is_lost_data() -> None:
    lost = OwnerDiedError("0a", b"", "")
    assert type(explained(failed(lost))) is LostDataError


def test_the_cause_comes_before_its_consequences() -> None:
    errors = [DeadlineError("late"), ActorError("reset by peer"), LostError("stopped"), CapacityError("full")]
    assert sorted(errors, key=precedence) == errors[::-1]
