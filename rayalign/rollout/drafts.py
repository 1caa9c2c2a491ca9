"""Candidates in the making, alike in all engines: what is requested, what is written so far, what may leave."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from rayalign.rollout.base import Finished, Request
from rayalign.types import FinishReason


@dataclass(slots=True)
class Draft:
    """One candidate while it is written."""

    request: Request
    limit: int
    """longest answer [tokens]"""
    tokens: list[int] = field(default_factory=list)
    """of the answer"""
    logprobs: list[float] = field(default_factory=list)
    version_runs: list[tuple[int, int]] = field(default_factory=list)
    """as in `Finished`"""

    def add(self, token: int, logprob: float, version: int) -> FinishReason | None:
        """Append a token; why the answer ends with it, if it does."""
        if not self.version_runs or self.version_runs[-1][1] != version:
            self.version_runs.append((len(self.tokens), version))
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if token in self.request.stop_ids:
            return "stop"
        return "length" if len(self.tokens) == self.limit else None

    def finished(self, reason: FinishReason) -> Finished:
        """The candidate as it leaves the engine."""
        runs = tuple(self.version_runs)
        return Finished(self.request.key, tuple(self.tokens), tuple(self.logprobs), runs, reason)


class Drafts:
    """The candidates of one engine, from their request until they leave."""

    def __init__(self, context: int) -> None:
        self._context = context
        self._open: dict[str, Request] = {}
        self._leaving: list[Finished] = []

    @property
    def pending(self) -> int:
        """Candidates that have not left, ready or not."""
        return len(self._open) + len(self._leaving)

    @property
    def in_flight(self) -> list[Request]:
        """As `Engine.in_flight`."""
        return list(self._open.values())

    def submit(self, request: Request) -> Draft | None:
        """The draft to write; None where the prompt leaves no room for an answer: the candidate leaves as failed."""
        assert request.key not in self._open, f"candidate {request.key} is in flight already"
        length = len(request.prompt_ids)
        if not 0 < length < self._context:
            reason = f"a prompt of {length} tokens leaves no room for an answer in a context of {self._context} tokens"
            self._leaving.append(Finished(request.key, failure=reason))
            return None
        self._open[request.key] = request
        return Draft(request, min(request.sampling.max_tokens, self._context - length))

    def finish(self, draft: Draft, reason: FinishReason) -> None:
        """Let a written candidate out."""
        del self._open[draft.request.key]
        self._leaving.append(draft.finished(reason))

    def fail(self, key: str, reason: str) -> None:
        """Let a candidate out as failed."""
        del self._open[key]
        self._leaving.append(Finished(key, failure=reason))

    def abort(self, keys: Collection[str]) -> None:
        """Forget candidates that are being written."""
        for key in keys:
            self._open.pop(key, None)

    def take(self) -> list[Finished]:
        """The candidates that left since the last call."""
        leaving, self._leaving = self._leaving, []
        return leaving
