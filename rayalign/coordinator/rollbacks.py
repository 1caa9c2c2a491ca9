"""Returns of a stage to its last good checkpoint after a guard fired.

    guard fires -> discard the checkpoints since then -> rollbacks.jsonl -> RollbackError -> the stage starts again

The file has a row for each return. Who starts the stage takes from it the seed of the samples and the learning rate,
so that a run that is interrupted after a return goes on in the same way. A kill before the row is written leaves fewer
checkpoints and no return: the guard fires again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rayalign.config import LearnerConfig
from rayalign.coordinator.guards import Firing
from rayalign.errors import GuardError, RollbackError
from rayalign.storage.checkpoints import CheckpointStore, Manifest
from rayalign.storage.events import EventLog
from rayalign.storage.metrics import MetricSink
from rayalign.storage.records import Appender, decode, encode, read_jsonl

FILE = "rollbacks.jsonl"
COUNT = "guard/rollbacks"
RATE = "guard/learning_rate_factor"
_APART = 1_000_003
"""between the seeds before and after a return; iterations and epochs lie closer to each other"""


@dataclass(frozen=True, slots=True)
class Rollback:
    """One return."""

    number: int
    """of the iteration or step at which the guard fired"""
    to: int
    """iterations or steps that the stage went back to"""
    metric: str
    reason: str
    rate: float
    """factor on the learning rate from then on, beside those before"""


def read_rollbacks(folder: Path) -> list[Rollback]:
    """The returns of the stage whose folder this is."""
    file = folder / FILE
    return [decode(Rollback, row) for row in read_jsonl(file)] if file.exists() else []


class Rollbacks:
    """The returns of a stage so far, and what follows from them."""

    def __init__(self, folder: Path, past: Sequence[Rollback]) -> None:
        """`folder`: of the stage."""
        self._folder = folder
        self._past = past

    @property
    def last(self) -> int | None:
        """Iterations or steps that the stage last went back to; None: it never did."""
        return self._past[-1].to if self._past else None

    def seed(self, seed: int) -> int:
        """The seed of all that is drawn and shuffled, which each return changes."""
        return seed + _APART * len(self._past)

    def slowed(self, config: LearnerConfig) -> LearnerConfig:
        """A learner's settings with the learning rate that the returns have left."""
        factor = math.prod(past.rate for past in self._past)
        return config.model_copy(update={"learning_rate": config.learning_rate * factor})

    def verify(self, firing: Firing) -> None:
        """Raise a GuardError where the guard allows no further return."""
        if len(self._past) >= firing.limit.rollbacks:
            raise GuardError(
                f"{firing.text}; the stage has gone back as often as its guard allows (rollbacks: "
                f"{firing.limit.rollbacks}): look at its report, change the job and run it again"
            )

    def record(
        self,
        firing: Firing,
        checkpoints: CheckpointStore,
        is_good: Callable[[Manifest], bool],
        *,
        unit: str,
        events: EventLog,
        sink: MetricSink,
    ) -> None:
        """Discard the checkpoints that are not good, and write the return into file, events and metrics.

        Args:
            unit: of the manifest, that the stage goes forward by.
        """
        checkpoints.discard(lambda manifest: not is_good(manifest))
        newest = checkpoints.latest()
        to = newest[1][unit] if newest else 0
        limit = firing.limit
        rollback = Rollback(firing.number, to, limit.metric, firing.text, limit.rate)
        with closing(Appender(self._folder / FILE)) as file:
            file.append(encode(rollback))
        past = [*self._past, rollback]
        left = limit.rollbacks - len(past)
        events.write("rolled_back", stage=self._folder.name, reason=firing.text, to=to, rate=limit.rate, left=left)
        sink.write(firing.number, {COUNT: len(past), RATE: math.prod(each.rate for each in past)})


def rollback_error(firing: Firing) -> RollbackError:
    """The error that has the stage start again."""
    rate = f" and {firing.limit.rate:g} times the learning rate" if firing.limit.rate != 1.0 else ""
    return RollbackError(f"{firing.text}; the stage goes back to its last good checkpoint, with other samples{rate}")
