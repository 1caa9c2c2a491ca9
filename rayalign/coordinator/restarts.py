"""How often an offline stage starts again from its last checkpoint, whoever launches its ranks."""

from __future__ import annotations

import logging

from rayalign.errors import ActorError, LostError
from rayalign.storage.events import EventLog

logger = logging.getLogger(__name__)


class Restarts:
    """After each loss a stage starts again as often as the job allows; after an error of its own, once."""

    def __init__(self, stage: str, role: str, allowed: int, events: EventLog) -> None:
        self._stage, self._role, self._events = stage, role, events
        self._allowed = self._left = allowed
        self._failed = False

    def after(self, error: ActorError) -> None:
        """Count and announce the restart that an error calls for.

        Raises:
            ActorError: no further one is allowed; it begins with the reason of the last failure.
        """
        lost = isinstance(error, LostError)
        if not self._allowed:
            raise error
        if not self._left or (self._failed and not lost):
            raise ActorError(f"train:{self._role} failed, and again after a restart: {error}") from error
        self._failed = self._failed or not lost
        self._left -= 1
        reason = str(error).splitlines()[0]
        self._events.write("stage_restarted", stage=self._stage, reason=reason, left=self._left)
        logger.warning("%s; it starts again from its last checkpoint", reason)
