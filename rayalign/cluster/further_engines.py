"""Places for engines beyond those that a pool starts with, taken while the cluster has room for them.

fill   ask for what is missing -> pending placement groups, for which an autoscaler adds machines
       those that are ready    -> an engine starts in each
leave  an engine died, or is given back: its place goes, so that its machine may go too
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rayalign.cluster.group import Actor
from rayalign.cluster.placement import Claim, process_environment
from rayalign.storage.events import EventLog

logger = logging.getLogger(__name__)
Start = Callable[[dict[str, Any]], Actor]
"""starts an engine with these options of Ray"""
LOOK = 0.01
"""seconds that a look at a placement group may take"""


class FurtherEngines:
    """At most `count` engines, each in a placement group of its own."""

    def __init__(
        self, count: int, claim: Claim, environment: Mapping[str, str], start: Start, events: EventLog
    ) -> None:
        self._count = count
        self._claim = claim
        self._environment = {**process_environment(claim), **environment}
        self._start = start
        self._events = events
        self._pending: list[PlacementGroup] = []
        self._places: dict[Actor, PlacementGroup] = {}

    def __contains__(self, actor: object) -> bool:
        return actor in self._places

    @property
    def actors(self) -> list[Actor]:
        """Those that have started."""
        return list(self._places)

    def fill(self) -> list[Actor]:
        """Start an engine in each place that is free now, and ask for the places that are missing."""
        for _ in range(self._count - len(self._places) - len(self._pending)):
            self._pending.append(placement_group([self._claim.bundle]))
        ready = [group for group in self._pending if group.wait(timeout_seconds=LOOK)]
        started = []
        for group in ready:
            self._pending.remove(group)
            actor = self._start(self._options(group))
            self._places[actor] = group
            started.append(actor)
        return started

    def leave(self, actor: Actor) -> None:
        """Give back the place of an engine that has ended."""
        remove_placement_group(self._places.pop(actor))

    def lose(self, actor: Actor, error: Exception) -> None:
        """Give back the place of an engine that was lost; the next `fill` asks for another one."""
        reason = _first_line(error)
        self._events.write("actor_lost", role="generator", reason=reason, replaced=False)
        logger.warning("%s; the others write its candidates, and room for another one is requested", reason)
        self.leave(actor)

    def ask_no_more(self) -> None:
        """Give back the places that have no engine yet, until the next `fill`."""
        for group in self._pending:
            remove_placement_group(group)
        self._pending = []

    def stop(self) -> None:
        """Give back all places; their engines end with them."""
        self.ask_no_more()
        for actor in self.actors:
            self.leave(actor)

    def _options(self, group: PlacementGroup) -> dict[str, Any]:
        return {
            "num_cpus": self._claim.cpus,
            "num_gpus": self._claim.gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0),
            "runtime_env": {"env_vars": self._environment},
        }


def _first_line(error: Exception) -> str:
    """The reason, without the log lines that follow it."""
    return (str(error).splitlines() or [type(error).__name__])[0]
