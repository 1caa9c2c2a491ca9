"""Why an actor ended, in the words of rayalign: Ray's own errors are paragraphs that name no role."""

from __future__ import annotations

import re
import time

import ray
from ray.exceptions import (
    ActorUnavailableError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from rayalign.actors.hosted import Pulse, memory_kills
from rayalign.actors.place import Place
from rayalign.cluster.heart import Condition, Machine, condition_of
from rayalign.cluster.machine_watch import ask_machine, last_log_lines
from rayalign.cluster.wires import CallError
from rayalign.errors import ActorError, DeadlineError, LostDataError, LostError, RayalignError

_GIB = 1 << 30
_OUT_OF_MEMORY = re.compile(r"memory pressure|out[ _]of[ _]memory|running low on memory", re.IGNORECASE)
_NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|bad_alloc|not enough memory|unable to allocate|MemoryError",
    re.IGNORECASE,
)
"""what the allocators of torch, the system, C++ and Arrow say of main memory, also within an error of Ray's"""
_NODE = re.compile(r"its node has died|node was (terminated|dead|removed)|node (has )?died", re.IGNORECASE)
_EXIT_CODE = re.compile(r"exit code (-?\d+)")
_ENDED = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError)
NODE_PATIENCE = 30.0
"""seconds in which Ray notices that a machine is gone whose actors cannot be reached"""
FAR_SECONDS = 15.0
"""until another machine must have looked at a process"""
_MORE_MEMORY = "give it a machine with more memory, or fewer actors on this one"


def explain(name: str, error: Exception, place: Place | None, pulse: Pulse | None, kills: int = 0) -> RayalignError:
    """The error of ours for one of Ray's or of an actor's; an error of ours that an actor raised stays what it is.

    Args:
        name: of the actor: role, rank and process.
        pulse: its last heartbeat.
        kills: processes that the kernel of its machine has killed for memory since that.
    """
    cause = error.cause if isinstance(error, RayTaskError | CallError) else error
    if isinstance(cause, RayalignError):
        return cause
    if isinstance(cause, ObjectLostError):
        return LostDataError(f"{name} misses what another actor had kept: that one's process has ended")
    if isinstance(cause, LocalRayletDiedError):
        return ActorError(f"{name} cannot be reached: Ray has ended on this machine; the same command goes on")
    if isinstance(cause, MemoryError) or _NO_MEMORY.search(str(cause)):
        where = f" on {place.address}" if place else ""
        return LostError(f"{name} ran out of memory{where}: {_summary(cause)}{memory_text(pulse)}; {_MORE_MEMORY}")
    started = not (isinstance(cause, RayActorError) and cause.actor_init_failed)
    if isinstance(cause, _ENDED) and started:
        return LostError(f"{name} died: {_end(cause, place, pulse, kills)}")
    return ActorError(f"{name} failed: {_summary(cause)}")


def explain_with_log(name: str, error: Exception, place: Place | None, pulse: Pulse | None) -> RayalignError:
    """As `explain`, with the actor's last log lines; waits until Ray knows more of an actor that it cannot reach."""
    if isinstance(error, ActorUnavailableError):
        await_news(place)
    explained = explain(name, error, place, pulse, kills_since(place, pulse))
    if type(explained) in (ActorError, LostError):
        return type(explained)(f"{explained}{_log(place)}")
    return explained


def silence(name: str, reason: str, place: Place | None, pulse: Pulse | None) -> LostError:
    """The error of an actor that is lost, though Ray knows of no end."""
    where = f" on {place.address}" if place else ""
    return LostError(f"{name} is lost{where}: {reason}{memory_text(pulse)}{_log(place)}")


def stopped(name: str, place: Place | None, pulse: Pulse | None) -> list[LostError]:
    """That an actor's process is stopped, if it is."""
    condition = condition_at(place) if place else None
    if isinstance(condition, Condition) and condition.stopped:
        return [silence(name, "its process is stopped (SIGSTOP)", place, pulse)]
    return []


def node_is_gone(place: Place | None) -> bool:
    """Whether Ray counts the machine of an actor as dead."""
    if place is None or not place.node or not ray.is_initialized():
        return False
    return any(node["NodeID"] == place.node and not node["Alive"] for node in ray.nodes())


def memory_text(pulse: Pulse | None) -> str:
    """What a process held at its last heartbeat."""
    return f"; it held {pulse.memory / _GIB:.1f} GiB at its last heartbeat" if pulse else ""


def precedence(error: BaseException) -> int:
    """First what explains itself, then an actor that is lost, which makes the others fail."""
    if not isinstance(error, ActorError | DeadlineError):
        return 0
    if isinstance(error, LostError):
        return 1
    return 2 if isinstance(error, ActorError) else 3


def condition_at(place: Place) -> Condition | Machine | None:
    """What the machine of a process knows of it."""
    try:
        return ask_machine(place.address, condition_of, place.pid, timeout=FAR_SECONDS)
    except RayError:
        return "silent"


def kills_since(place: Place | None, pulse: Pulse | None) -> int:
    """Processes that the kernel of an actor's machine has killed for memory since its last heartbeat."""
    if place is None or pulse is None:
        return 0
    try:
        return ask_machine(place.address, memory_kills, timeout=FAR_SECONDS) - pulse.memory_kills
    except RayError:
        return 0


def await_news(place: Place | None) -> None:
    """Wait until Ray knows that the machine of an actor is gone, or for long enough."""
    end = time.monotonic() + NODE_PATIENCE
    while not node_is_gone(place) and time.monotonic() < end:
        time.sleep(1.0)


def _log(place: Place | None) -> str:
    log = last_log_lines(place.pid if place else 0, place.address if place else "")
    return f"\nlast log lines:\n{log}" if log else ""


def _end(cause: Exception, place: Place | None, pulse: Pulse | None, kills: int) -> str:
    """How a process ended."""
    text = str(cause)
    where = f" on {place.address}" if place else ""
    if isinstance(cause, NodeDiedError) or _NODE.search(text) or node_is_gone(place):
        node = f" (node {place.node[:8]})" if place and place.node else ""
        return f"its machine{where}{node} is gone{memory_text(pulse)}"
    if isinstance(cause, OutOfMemoryError) or _OUT_OF_MEMORY.search(text):
        return f"Ray killed its process{where}, whose machine ran out of memory{memory_text(pulse)}; {_MORE_MEMORY}"
    if isinstance(cause, ActorUnavailableError):
        return f"its process{where} cannot be reached, and Ray does not know why{memory_text(pulse)}"
    if kills:
        return f"the kernel killed a process{where} for memory at that time{memory_text(pulse)}; {_MORE_MEMORY}"
    code = _EXIT_CODE.search(text)
    how = f"with exit code {code.group(1)}" if code else "without an exit code, as after SIGKILL or a crash"
    return f"its process has died{where} {how}{memory_text(pulse)}"


def _summary(cause: BaseException) -> str:
    """The first and the last line of an error; between them Ray puts a remote traceback."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip(" ^")]
    return f"{type(cause).__name__}: {' '.join(lines[:1] + lines[1:][-1:])}"
