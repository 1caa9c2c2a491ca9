"""A circuit breaker: while an endpoint is down, one request tries it at a time (Nygard, "Release It!", 2007)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

_TRIP = 10
"""failures in a row that open it"""
_PAUSE = (1.0, 30.0)
"""seconds until the first probe, doubled after each failed one, and at most"""
_LONGEST = 600.0
"""longest Retry-After that the breaker follows [s]"""
_POLL = 0.05
"""seconds between two checks of a probe in progress"""


class Breaker:
    """Closed until requests fail in a row; then all wait, and one at a time probes; a good one closes it again.

    Args:
        clock: seconds, monotonic.
        sleep: waits for so many of them.
    """

    def __init__(self, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> None:
        self._clock, self._sleep = clock, sleep
        self._failures = 0
        self._until = 0.0
        self._pause = _PAUSE[0]
        self._probing = False

    async def admit(self, deadline: float) -> bool:
        """Wait until a request may be sent, at most until the deadline; returns whether it is the probe."""
        while self._failures >= _TRIP and (now := self._clock()) < deadline:
            if now >= self._until and not self._probing:
                self._probing = True
                return True
            await self._sleep(min(max(self._until - now, _POLL), deadline - now))
        return False

    def note(self, probe: bool, good: bool | None, retry_after: float = 0.0) -> None:
        """Note the end of an admitted request; None: it was cancelled, without news of the endpoint.

        Args:
            retry_after: seconds that the endpoint asked for.
        """
        if probe:
            self._probing = False
        if good:
            self._failures, self._pause = 0, _PAUSE[0]
        elif good is False:
            self._failures += 1
            if probe or self._failures == _TRIP:
                self._until = self._clock() + max(self._pause, min(retry_after, _LONGEST))
                self._pause = min(2.0 * self._pause, _PAUSE[1])
