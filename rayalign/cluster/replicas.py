"""The whole models of a group that is only read: each of its actors, or all of them where they hold one in parts."""

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
        """The answer of one replica; of a model in parts every actor is given the call, and has the whole answer.

        Raises:
            RayalignError: as `ActorGroup.steady`.
        """
        if not self._group.spread:
            return await self._group.steady(number, call)
        answers = await self._group.all(call)
        return answers[0]
