"""How candidates are spread over engines: those of a prompt together, a next turn where the turn before was written."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Sequence

from rayalign.cluster.group import Actor
from rayalign.pickling import Packed
from rayalign.rollout.base import Request

HOMES = 4096
"""finished candidates whose engine is remembered for a next turn"""


class Homes:
    """The engines that wrote the candidates that finished last: their caches hold the prefixes of next turns."""

    def __init__(self) -> None:
        # ordered: to find the first entry of a plain dict takes longer the more were deleted before it
        self._written: OrderedDict[str, tuple[Actor, tuple[int, ...]]] = OrderedDict()
        """key -> engine and prompt"""

    @property
    def actors(self) -> set[Actor]:
        """All engines that are remembered."""
        return {actor for actor, _ in self._written.values()}

    def remember(self, actor: Actor, request: Request) -> None:
        """Note that an engine has written a candidate, or a turn of it."""
        self._written[request.key] = actor, request.prompt_ids
        if len(self._written) > HOMES:
            self._written.popitem(last=False)

    def pop(self, request: Request, engines: Container[Actor]) -> Actor | None:
        """The engine that wrote the turn before; None where it is not among these engines, or there was no turn."""
        actor, before = self._written.pop(request.key, (None, ()))
        goes_on = len(before) < len(request.prompt_ids) and request.prompt_ids[: len(before)] == before
        return actor if actor in engines and goes_on else None


def spread(
    requests: Sequence[Request], engines: dict[Actor, dict[str, Request]], homes: Homes, fair_share: int
) -> dict[Actor, Packed[Request]]:
    """What each engine gets: a next turn goes to its home, all else to the engine with the fewest candidates.

    Args:
        engines: the open candidates of each, to which the new ones are added.
    """
    shares: dict[Actor, Packed[Request]] = {}
    for piece in pieces(requests, fair_share):
        home = homes.pop(piece[0], engines)
        actor = home or min(engines.items(), key=lambda engine: len(engine[1]))[0]
        engines[actor].update((request.key, request) for request in piece)
        shares.setdefault(actor, Packed()).extend(piece)
    return shares


def pieces(requests: Sequence[Request], fair_share: int) -> list[list[Request]]:
    """The candidates of each prompt together, cut only where they are more than an engine's fair share."""
    by_prompt: dict[tuple[int, ...], list[Request]] = {}
    for request in requests:
        by_prompt.setdefault(request.prompt_ids, []).append(request)
    cut: list[list[Request]] = []
    for candidates in by_prompt.values():
        cut += [candidates[at : at + fair_share] for at in range(0, len(candidates), fair_share)]
    return cut
