"""The budget as one judge spends it for one client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from rayalign.annotator.judges.verdicts import Bill, Usage
from rayalign.annotator.store.budget import Budget, BusyError
from rayalign.errors import RayalignError


class Account:
    """The spend of one judge for one client."""

    def __init__(self, budget: Budget, judge: str, client: str) -> None:
        self._budget, self._judge, self._client = budget, judge, client
        self.refused: RayalignError | None = None
        """why the last request could not be sent, or not be settled; not where it has to wait for others in flight"""

    @asynccontextmanager
    async def paying(self, most: Usage, wait: float, lease: float) -> AsyncIterator[Bill]:
        """As `Paying`."""
        try:
            reservation = await self._budget.hold(self._judge, self._client, most, wait, lease)
        except BusyError:
            raise
        except RayalignError as error:
            self.refused = error
            raise
        bill = Bill()
        try:
            yield bill
        finally:
            try:
                await self._budget.database.insist(partial(self._budget.settle, reservation, bill.cost))
            except RayalignError as error:  # the verdict that was paid for is kept all the same
                self.refused = error
