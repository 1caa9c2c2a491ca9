"""A policy behind the routes: an engine with its base, and the merged adapters that requests name."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from rayalign.config import Profile
from rayalign.models.merge import merge_adapters
from rayalign.rollout.chat import Answer, ChatAdapter, ChatPrompt
from rayalign.serving.merged import FORM, CacheState, MergedAdapters

Turns = Sequence[Mapping[str, str]]
"""a dialogue of `role` and `content`"""


class Policy(Protocol):
    """What the routes ask, in this process or in another one."""

    async def complete(self, turns: Turns, settings: Mapping[str, Any], profile: Profile) -> Answer:
        """The answer under a profile; an empty one is the base."""

    def stream(self, turns: Turns, settings: Mapping[str, Any], profile: Profile) -> AsyncGenerator[str | Answer, None]:
        """Pieces of the answer's text, then the whole answer."""

    async def state(self) -> CacheState:
        """The merged adapters that are kept."""


class Engine(Protocol):
    """A chat engine that takes adapters: `VllmChat`."""

    async def complete(
        self, prompt: ChatPrompt, settings: Mapping[str, Any], adapter: ChatAdapter | None = None
    ) -> Answer:
        """The answer to a prompt."""

    def stream(
        self, prompt: ChatPrompt, settings: Mapping[str, Any], adapter: ChatAdapter | None = None
    ) -> AsyncGenerator[str | Answer, None]:
        """Pieces of the answer's text, then the whole answer."""


class EnginePolicy:
    """An engine and its merged adapters; implements `Policy`.

    Args:
        stop_ids: tokens that end an answer.
    """

    def __init__(self, engine: Engine, merged: MergedAdapters, stop_ids: Sequence[int]) -> None:
        self._engine = engine
        self._merged = merged
        self._stop_ids = list(stop_ids)

    async def complete(self, turns: Turns, settings: Mapping[str, Any], profile: Profile) -> Answer:
        """As `Policy.complete`."""
        async with self._adapter(profile) as adapter:
            return await self._engine.complete(turns, self._with_end(settings), adapter)

    async def stream(
        self, turns: Turns, settings: Mapping[str, Any], profile: Profile
    ) -> AsyncGenerator[str | Answer, None]:
        """As `Policy.stream`."""
        async with self._adapter(profile) as adapter:
            pieces = self._engine.stream(turns, self._with_end(settings), adapter)
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece

    async def state(self) -> CacheState:
        """As `Policy.state`."""
        return self._merged.state

    @asynccontextmanager
    async def _adapter(self, profile: Profile) -> AsyncIterator[ChatAdapter | None]:
        if not profile:
            yield None
            return
        async with self._merged.using(profile) as adapter:
            yield adapter

    def _with_end(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {**settings, "stop_token_ids": self._stop_ids}


class Merge:
    """Writes the weighted sum of the adapters of a profile."""

    def __init__(self, adapters: Mapping[str, str]) -> None:
        self._adapters = adapters

    def __call__(self, profile: Profile, folder: Path) -> None:
        """Write the adapter of a profile to a folder."""
        paths = [self._adapters[name] for name in profile.ids]
        weights = [weight for _, weight in profile]
        merge_adapters(paths, weights, folder, mode=FORM)
