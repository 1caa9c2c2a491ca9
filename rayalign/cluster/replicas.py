"""The independent replicas of a frozen role: each actor, or all actors together where they hold one model in parts."""

from __future__ import annotations

from typing import Any

from rayalign.cluster.group import ActorGroup, Call


class Replicas:
    """What answers calls independently of each other."""

    def __init__(self, group: ActorGroup) -> None:
        self._group = group

    def __len__(self) -> int:
        return 1 if self._group.spread else len(self._group)

    async def ask(self, number: int, call: Call) -> Any:
        """The answer of one replica. A model in parts: every actor gets the call and returns the whole answer.

        Raises:
            RayalignError: as `ActorGroup.steady`.
        """
        wires = self._group.wires
        if not self._group.spread:
            return await self._group.steady(number, lambda actor: call(wires.to(actor)))
        answers = await self._group.all(lambda actor: call(wires.to(actor)))
        return answers[0]
