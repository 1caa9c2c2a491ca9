"""Which places are written ahead, and which finished groups make an iteration.

    as it is      its places: prompts              an iteration takes all of its own
    tail: drop    its places: prompts + extra      it takes the first of its own that are finished; the rest is dropped
    tail: later   its places: prompts,             it takes the oldest that are finished, late and early ones too,
                  and `extra` of the next one      and waits for those that would be too old for the next iteration

A place is an iteration and a slot in it. Places are counted through all iterations, in the order of their submission.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from rayalign.config import TrainStage
from rayalign.types import Group

Place = tuple[int, int]
"""iteration and slot"""


def place_of(group_id: str) -> Place:
    """The place that a group was made for."""
    iteration, slot = group_id.partition(".")[0].split("-")
    return int(iteration), int(slot)


@dataclass(frozen=True, slots=True)
class Window:
    """How far ahead places are submitted."""

    prompts: int
    iterations: int
    max_staleness: int
    extra: int = 0
    carries: bool = False
    """a tail is used later"""

    @classmethod
    def of(cls, stage: TrainStage) -> Window:
        """The window of an online stage."""
        overlap = stage.overlapping
        carries = overlap.tail == "later"
        return cls(stage.prompts, stage.iterations, stage.max_staleness, overlap.extra_prompts, carries)

    @property
    def width(self) -> int:
        """Places of one iteration."""
        return self.prompts if self.carries else self.prompts + self.extra

    def admitted(self, version: int) -> int:
        """How many places may have been submitted once a version is published: their groups can all be consumed."""
        if version < 0:
            return 0
        if self.carries:
            ahead = (version + self.max_staleness) * self.prompts + self.extra
        else:
            ahead = (version + self.max_staleness + 1) * self.width
        return min(ahead, self.iterations * self.width)

    def places(self, start: int, stop: int) -> Iterator[Place]:
        """The places of these numbers."""
        for number in range(start, stop):
            yield divmod(number, self.width)

    def earliest(self, place: Place) -> int:
        """The first iteration that may take a place's group."""
        iteration, slot = place
        if not self.carries:
            return iteration
        return max(0, (iteration * self.prompts + slot - self.extra) // self.prompts)

    def first(self, iteration: int) -> int:
        """The number of the first place that may be missing where a stage goes on with an iteration."""
        return 0 if self.carries else iteration * self.width


@dataclass(slots=True)
class Shelf:
    """Groups that are finished and not consumed, and how many of each version are still being made."""

    window: Window
    _ready: defaultdict[int, dict[Place, Group]] = field(default_factory=lambda: defaultdict(dict), init=False)
    """by the first iteration that may take them, in the order in which they finished"""
    _open: Counter[int] = field(default_factory=Counter, init=False)
    """version at submission -> groups"""
    _next: int = field(default=0, init=False)
    """the first iteration that was not taken"""

    def begin(self, version: int) -> None:
        """A group is being made since this version was published."""
        self._open[version] += 1

    def end(self, version: int) -> None:
        """It is no longer being made."""
        self._open[version] -= 1

    def needs(self, iteration: int) -> bool:
        """Whether a group of this iteration's places could still be taken."""
        return self.window.carries or iteration >= self._next

    def put(self, place: Place, group: Group) -> None:
        """Keep a finished group."""
        self._ready[self.window.earliest(place)][place] = group

    def count(self, iteration: int) -> int:
        """Groups that an iteration could take now."""
        return sum(len(groups) for first, groups in self._ready.items() if first <= iteration)

    def is_whole(self, iteration: int) -> bool:
        """Whether an iteration can be taken."""
        return self.count(iteration) >= self.window.prompts and not self._overdue(iteration)

    def take(self, iteration: int) -> tuple[dict[Place, Group], list[Group]]:
        """The groups of an iteration in the order of their places, and those that nobody will take."""
        self._next = iteration + 1
        ready: dict[Place, Group] = {}
        for first in sorted(self._ready.keys()):
            if first <= iteration:
                ready |= self._ready.pop(first)
        order = list(ready)
        if self.window.carries:
            order.sort(key=lambda place: (ready[place].version, place))
        chosen = {place: ready.pop(place) for place in sorted(order[: self.window.prompts])}
        if not self.window.carries:
            return chosen, list(ready.values())
        for place, group in ready.items():
            self.put(place, group)
        return chosen, []

    def _overdue(self, iteration: int) -> bool:
        """Whether a group is being made that the next iteration could not take; at most `extra` ever are."""
        if not self.window.carries:
            return False
        oldest = iteration - self.window.max_staleness
        return any(count for version, count in self._open.items() if version <= oldest)
