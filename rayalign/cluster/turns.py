"""DeviceTurns: lends the devices that engines and learners share to one side after the other.

    turn        engines           policy               critic               reference    reward
    rollout     weights, cache                                                           weights
    training                      weights, training    weights, training    weights
    publish     weights           weights

A change of turn first frees all that has to leave. Then each part that comes is entered in the ledger, and only then it
is loaded, so that what does not fit fails before it is loaded, on logical devices as on real ones. This module needs no
Ray, so that the plan can read the table.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from rayalign.cluster.ledger import DeviceLedger

if TYPE_CHECKING:
    from rayalign.storage.events import EventLog

Part = Literal["weights", "cache", "training"]
"""model weights; KV cache of an engine; gradients, optimizer state and activations of a learner"""
Turn = Literal["rollout", "training", "publish"]
Sizes = Mapping[Part, int]
"""bytes of each part of one actor, on each of its devices"""
Presence = Mapping[Turn, frozenset[Part]]
"""the parts that a role has on its devices in each turn; none in a turn that is left out"""
Move = Callable[[Sequence[Part]], Awaitable[None]]

TURNS: tuple[Turn, ...] = ("rollout", "training", "publish")
_WEIGHTS: frozenset[Part] = frozenset({"weights"})
_LEARNER: frozenset[Part] = frozenset({"weights", "training"})
AFTER_ROLLOUT: Presence = MappingProxyType({"training": _WEIGHTS})
"""of a frozen model that is used once the engines have written"""
PRESENCE: Mapping[str, Presence] = MappingProxyType(
    {
        "generator": {"rollout": frozenset({"weights", "cache"}), "publish": _WEIGHTS},
        "policy": {"training": _LEARNER, "publish": _WEIGHTS},
        "critic": {"training": _LEARNER},
        "reference": AFTER_ROLLOUT,
        "reward": {"rollout": _WEIGHTS},
    }
)
"""of each role in an online stage"""


def present_parts(presence: Presence, turn: Turn, sizes: Sizes, *, resident: bool) -> frozenset[Part]:
    """The parts that a role has on its devices in a turn; a resident role has all of them in every turn."""
    return frozenset(sizes) if resident else presence.get(turn, frozenset())


@dataclass(slots=True)
class Sharer:
    """A role on shared devices: its claims there, and how its parts come and go."""

    role: str
    devices: Sequence[str]
    """of all its actors; a device that two of them use is there twice"""
    sizes: Sizes
    presence: Presence
    offload: Move
    reload: Move
    resident: bool = False
    present: set[Part] = field(default_factory=set)

    def parts_in(self, turn: Turn) -> frozenset[Part]:
        """The parts that it has on its devices in a turn."""
        return present_parts(self.presence, turn, self.sizes, resident=self.resident)


class DeviceTurns:
    """Who has which device memory now; without sharers every method does nothing."""

    def __init__(self, ledger: DeviceLedger, events: EventLog) -> None:
        self._ledger = ledger
        self._events = events
        self._sharers: dict[str, Sharer] = {}

    @property
    def shared(self) -> bool:
        """Whether roles share devices at all."""
        return bool(self._sharers)

    def add(self, sharer: Sharer, turn: Turn) -> None:
        """Enter a role that is about to load its parts of a turn.

        Raises:
            CapacityError: a device has no room for them.
        """
        self._claim(sharer, sharer.parts_in(turn))
        self._sharers[sharer.role] = sharer

    def remove(self, role: str) -> None:
        """Forget a role whose actors have ended."""
        sharer = self._sharers.pop(role, None)
        if sharer is not None:
            self._release(sharer, sharer.present)

    async def enter(self, turn: Turn) -> None:
        """Free what has to leave in this turn, then load what comes.

        Raises:
            CapacityError: a device has no room for what comes; nothing was loaded.
        """
        if not self._sharers:
            return
        start = time.perf_counter()
        sharers = list(self._sharers.values())
        leaving = {sharer.role: sharer.present - sharer.parts_in(turn) for sharer in sharers}
        await asyncio.gather(*(self.offload(role, parts) for role, parts in leaving.items()))
        coming = {sharer.role: sharer.parts_in(turn) - sharer.present for sharer in sharers}
        for sharer in sharers:
            self._claim(sharer, coming[sharer.role])
        loads = [sharer.reload(_in_order(coming[sharer.role])) for sharer in sharers if coming[sharer.role]]
        await asyncio.gather(*loads)
        self._events.write("turn", name=turn, seconds=time.perf_counter() - start)

    async def offload(self, role: str, parts: Collection[Part]) -> None:
        """Free parts of a role, then give up their claims."""
        if parts:
            sharer = self._sharers[role]
            await sharer.offload(_in_order(parts))
            self._release(sharer, parts)

    async def reload(self, role: str, parts: Collection[Part]) -> None:
        """Claim room for parts of a role, then load them.

        Raises:
            CapacityError: a device has no room for them; nothing was loaded.
        """
        if parts:
            sharer = self._sharers[role]
            self._claim(sharer, parts)
            await sharer.reload(_in_order(parts))

    def _claim(self, sharer: Sharer, parts: Collection[Part]) -> None:
        with ExitStack() as undo:
            undo.callback(self._release, sharer, parts)
            for part in _in_order(parts):
                for device in sharer.devices:
                    self._ledger.claim(device, f"{sharer.role} {part}", sharer.sizes[part])
            undo.pop_all()
        sharer.present |= set(parts)

    def _release(self, sharer: Sharer, parts: Collection[Part]) -> None:
        for part in parts:
            for device in set(sharer.devices):
                self._ledger.release(device, f"{sharer.role} {part}")
        sharer.present = sharer.present - set(parts)


def _in_order(parts: Collection[Part]) -> list[Part]:
    """Weights before what needs them."""
    order: tuple[Part, ...] = ("weights", "cache", "training")
    return [part for part in order if part in parts]
