"""Candidates to groups: the one place above the pool where the candidates of a prompt come together.

order -> one request for each candidate -> pool -> finished candidates -> group, once the last one has ended
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from rayalign.cluster.pool import GeneratorPool
from rayalign.coordinator.rendering import Renderer
from rayalign.errors import DeadlineError
from rayalign.rollout.base import Finished, Request
from rayalign.types import Candidate, Group, Prompt, Segment, Trajectory


@dataclass(frozen=True, slots=True)
class GroupOrder:
    """A group to be made: the prompt, and one seed for each candidate that the policy writes."""

    group_id: str
    prompt: Prompt
    seeds: tuple[int, ...]
    iteration: int = 0
    dataset: tuple[Candidate, ...] = ()
    """answers of the data set, which come after the written ones"""


@dataclass(frozen=True, slots=True)
class GroupResult:
    """A whole group, or the reason why there is none."""

    group_id: str
    group: Group | None
    failure: str | None = None


@dataclass(slots=True)
class _OpenGroup:
    """A group whose candidates are on the engines."""

    order: GroupOrder
    requests: dict[str, Request]
    """key -> request, in the order of the seeds"""
    candidates: dict[str, Finished] = field(default_factory=dict)


class GroupAssembler:
    """Orders in, groups out, over the engines of one pool."""

    def __init__(self, pool: GeneratorPool, renderer: Renderer, *, timeout: float) -> None:
        """`timeout`: seconds within which `generate` must see a next group finish."""
        self._pool = pool
        self._renderer = renderer
        self._timeout = timeout
        self._open: dict[str, _OpenGroup] = {}
        self._groups: dict[str, str] = {}
        """key of a candidate in flight -> its group"""

    @property
    def pending(self) -> int:
        """Groups submitted and not finished."""
        return len(self._open)

    async def submit(self, orders: Sequence[GroupOrder]) -> None:
        """Send all candidates of all orders to the pool."""
        requests: list[Request] = []
        for order in orders:
            own = self._renderer.requests(order.group_id, order.prompt, order.seeds)
            self._open[order.group_id] = _OpenGroup(order, {request.key: request for request in own})
            self._groups.update((request.key, order.group_id) for request in own)
            requests += own
        await self._pool.submit(requests)

    async def finished(self) -> AsyncIterator[GroupResult]:
        """Groups as they finish, without end; close it to stop."""
        async for candidate in self._pool.finished():
            result = self._take(candidate)
            if result is not None:
                yield result

    async def generate(self, orders: Sequence[GroupOrder]) -> list[GroupResult]:
        """Make all groups and return them in the order of `orders`.

        Raises:
            DeadlineError: no group finished within the deadline of a call.
        """
        results: dict[str, GroupResult] = {}
        await self.submit(orders)
        stream = self.finished()
        try:
            while len(results) < len(orders):
                result = await asyncio.wait_for(anext(stream), self._timeout)
                results[result.group_id] = result
        except TimeoutError as error:
            raise DeadlineError(
                f"{self.pending} groups are on the engines, and none finished within {self._timeout:.0f} s; "
                "an engine is stuck or too slow: see its log, or raise cluster.call_timeout"
            ) from error
        finally:
            await stream.aclose()  # type: ignore[attr-defined]
        return [results[order.group_id] for order in orders]

    def _take(self, candidate: Finished) -> GroupResult | None:
        """The result of the candidate's group where it was the last one."""
        group_id = self._groups.pop(candidate.key)
        group = self._open[group_id]
        group.candidates[candidate.key] = candidate
        if len(group.candidates) < len(group.requests):
            return None
        del self._open[group_id]
        return self._assemble(group)

    def _assemble(self, group: _OpenGroup) -> GroupResult:
        order = group.order
        trajectories: list[Trajectory] = []
        for index, (key, request) in enumerate(group.requests.items()):
            candidate = group.candidates[key]
            if candidate.failure is not None:
                return GroupResult(order.group_id, None, candidate.failure)
            written = trajectory(order.group_id, index, request, candidate)
            trajectories.append(replace(written, text=self._renderer.decode(written)))
        for index, answer in enumerate(order.dataset, start=len(order.seeds)):
            trajectories.append(self._renderer.dataset_trajectory(order.group_id, index, order.prompt, answer.text))
        return GroupResult(order.group_id, Group(order.group_id, order.prompt, order.iteration, tuple(trajectories)))


def trajectory(group_id: str, index: int, request: Request, candidate: Finished) -> Trajectory:
    """A written candidate as a record, without its text."""
    assert candidate.reason is not None, "a failed candidate has no trajectory"
    start = len(request.prompt_ids)
    written = (Segment(start + first, "policy", version) for first, version in candidate.version_runs)
    return Trajectory(
        group_id=group_id,
        index=index,
        token_ids=(*request.prompt_ids, *candidate.tokens),
        segments=(Segment(0, "template"), *written),
        logprobs=candidate.logprobs,
        finish_reason=candidate.reason,
    )
