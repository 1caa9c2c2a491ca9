"""Engines that have been started and are not ready yet, in the place of lost ones or in a further place."""

from __future__ import annotations

import time

import ray

from rayalign.cluster.ending import end_actor
from rayalign.cluster.seats import Actor, Seats
from rayalign.errors import LostError


class StartingEngines:
    """Those of one pool."""

    def __init__(self, seats: Seats | None = None, timeout: float = float("inf")) -> None:
        """
        Args:
            seats: of the engines that are replaced; None: none is.
            timeout: seconds until an engine must be ready; then another one starts in its place.
        """
        self._seats = seats
        self._timeout = timeout
        self._setups: dict[Actor, tuple[ray.ObjectRef, float]] = {}
        """engine -> its setup under way, and since when"""

    @property
    def actors(self) -> list[Actor]:
        """The engines that are not ready, or have not been taken yet."""
        return list(self._setups)

    def add(self, actor: Actor) -> None:
        """Set an engine up."""
        self._setups[actor] = actor.setup.remote(), time.monotonic()

    def replace(self, actor: Actor, error: Exception, *, machine_is_gone: bool = False) -> None:
        """Start another engine in the seat of one that was lost, if it has one."""
        if self._seats is None:
            return
        replacement = self._seats.refill(actor, error, machine_is_gone=machine_is_gone)
        if replacement is not None:
            self.add(replacement)

    def is_ready(self) -> bool:
        """Whether there is one that `take_ready` would return; replaces those that are late."""
        now, ready = time.monotonic(), self._ready()
        for actor, (setup, since) in list(self._setups.items()):
            if setup not in ready and now - since > self._timeout:
                self.drop(actor)
                self.replace(actor, LostError(f"generator was not ready within {self._timeout:.0f} s"))
        return bool(self._ready())

    def take_ready(self) -> list[tuple[Actor, ray.ObjectRef]]:
        """The engines whose setup has ended, well or not, with its answer; they are no more among these."""
        ready = self._ready()
        engines = [(actor, setup) for actor, (setup, _) in self._setups.items() if setup in ready]
        for actor, _ in engines:
            del self._setups[actor]
        return engines

    def drop(self, actor: Actor) -> None:
        """End an engine that is not needed any more."""
        del self._setups[actor]
        end_actor(actor, None)

    def stop(self) -> None:
        """End all of them."""
        for actor in self.actors:
            self.drop(actor)

    def _ready(self) -> list[ray.ObjectRef]:
        setups = [setup for setup, _ in self._setups.values()]
        if not setups:
            return []
        ready, _ = ray.wait(setups, num_returns=len(setups), timeout=0)
        return list(ready)
