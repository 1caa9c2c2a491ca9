"""Groups in the making, kept alike by all engines: what was asked, what is written so far, what may leave."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from rayalign.rollout.base import Finished, Request
from rayalign.types import FinishReason, Segment, Trajectory


@dataclass(slots=True)
class Draft:
    """One candidate while it is written."""

    request: Request
    index: int
    limit: int
    """longest answer [tokens]"""
    token_ids: list[int] = field(default_factory=list)
    """of the answer"""
    logprobs: list[float] = field(default_factory=list)
    starts: list[tuple[int, int]] = field(default_factory=list)
    """first token and weight version of each run of tokens that one version wrote"""

    def add(self, token: int, logprob: float, version: int) -> FinishReason | None:
        """Append a token; why the answer ends with it, if it does."""
        if not self.starts or self.starts[-1][1] != version:
            self.starts.append((len(self.token_ids), version))
        self.token_ids.append(token)
        self.logprobs.append(logprob)
        if token in self.request.stop_ids:
            return "stop"
        return "length" if len(self.token_ids) == self.limit else None

    def trajectory(self, reason: FinishReason) -> Trajectory:
        """The finished candidate; its text is left to whoever has the tokenizer."""
        prompt = self.request.prompt_ids
        written = [Segment(len(prompt) + start, "policy", version) for start, version in self.starts]
        return Trajectory(
            group_id=self.request.group_id,
            index=self.index,
            token_ids=(*prompt, *self.token_ids),
            segments=(Segment(0, "template"), *written),
            logprobs=tuple(self.logprobs),
            finish_reason=reason,
        )


class Assembly:
    """Takes requests apart into drafts, and lets a group out when its last draft is done."""

    def __init__(self, context: int) -> None:
        self._context = context
        self._parts: dict[str, list[Trajectory | None]] = {}
        self._leaving: list[Finished] = []

    @property
    def pending(self) -> int:
        """Groups that have not left, ready or not."""
        return len(self._parts) + len(self._leaving)

    def submit(self, request: Request) -> list[Draft]:
        """The drafts to write; none where the prompt leaves no room for an answer, and the group leaves as failed."""
        assert request.group_id not in self._parts, f"group {request.group_id} is in flight already"
        length = len(request.prompt_ids)
        if not 0 < length < self._context:
            reason = f"a prompt of {length} tokens leaves no room for an answer in a context of {self._context} tokens"
            self._leaving.append(Finished(request.group_id, (), reason))
            return []
        limit = min(request.sampling.max_tokens, self._context - length)
        self._parts[request.group_id] = [None] * len(request.seeds)
        return [Draft(request, index, limit) for index in range(len(request.seeds))]

    def finish(self, draft: Draft, reason: FinishReason) -> None:
        """Take a finished draft; the group may leave if it was the last one."""
        group_id = draft.request.group_id
        parts = self._parts[group_id]
        parts[draft.index] = draft.trajectory(reason)
        whole = tuple(part for part in parts if part is not None)
        if len(whole) == len(parts):
            del self._parts[group_id]
            self._leaving.append(Finished(group_id, whole))

    def fail(self, group_id: str, reason: str) -> None:
        """Let a group out as failed."""
        del self._parts[group_id]
        self._leaving.append(Finished(group_id, (), reason))

    def abort(self, group_ids: Collection[str]) -> None:
        """Forget groups."""
        self._parts = {k: v for k, v in self._parts.items() if k not in group_ids}
        self._leaving = [f for f in self._leaving if f.group_id not in group_ids]

    def take(self) -> list[Finished]:
        """The groups that left since the last call."""
        taken, self._leaving = self._leaving, []
        return taken
