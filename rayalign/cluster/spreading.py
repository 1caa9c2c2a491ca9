"""How candidates are spread over engines: those of a prompt together, a next turn where the turn before was written."""

from __future__ import annotations

from collections.abc import Container, Sequence

from rayalign.cluster.group import Actor
from rayalign.rollout.base import Request

HOMES = 4096
"""finished candidates whose engine is remembered for a next turn"""


class Homes:
    """The engines that wrote the candidates that finished last: their caches hold the prefixes of next turns."""

    def __init__(self) -> None:
        self._written: dict[str, tuple[Actor, tuple[int, ...]]] = {}
        """key -> engine and prompt"""

    @property
    def actors(self) -> set[Actor]:
        """All engines that are remembered."""
        return {actor for actor, _ in self._written.values()}

    def remember(self, actor: Actor, request: Request) -> None:
        """Note that an engine has written a candidate, or a turn of it."""
        self._written[request.key] = actor, request.prompt_ids
        if len(self._written) > HOMES:
            del self._written[next(iter(self._written))]

    def pop(self, request: Request, engines: Container[Actor]) -> Actor | None:
        """The engine that wrote the turn before; None where it is not among these engines, or there was no turn."""
        actor, before = self._written.pop(request.key, (None, ()))
        goes_on = len(before) < len(request.prompt_ids) and request.prompt_ids[: len(before)] == before
        return actor if actor in engines and goes_on else None


def pieces(requests: Sequence[Request], fair_share: int) -> list[list[Request]]:
    """The candidates of each prompt together, cut only where they are more than an engine's fair share."""
    by_prompt: dict[tuple[int, ...], list[Request]] = {}
    for request in requests:
        by_prompt.setdefault(request.prompt_ids, []).append(request)
    cut: list[list[Request]] = []
    for candidates in by_prompt.values():
        cut += [candidates[at : at + fair_share] for at in range(0, len(candidates), fair_share)]
    return cut
