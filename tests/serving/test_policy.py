"""Requests of several profiles at once, over an engine that notes the adapters that it is given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rayalign.config import Profile, load_registry
from rayalign.models.merge import merge_adapters
from rayalign.rollout.chat import Answer, ChatAdapter, ChatPrompt
from rayalign.serving.merged import MergedAdapters
from rayalign.serving.policy import EnginePolicy, Merge

REGISTRY = load_registry()


class Noting:
    """Answers when all `together` requests are there, with the folder of the adapter."""

    def __init__(self, together: int) -> None:
        self._all = asyncio.Barrier(together)
        self.settings: list[Mapping[str, Any]] = []

    async def complete(
        self, prompt: ChatPrompt, settings: Mapping[str, Any], adapter: ChatAdapter | None = None
    ) -> Answer:
        self.settings.append(settings)
        await self._all.wait()
        return Answer("base" if adapter is None else adapter.folder, "stop", (), 1, 1)

    async def stream(
        self, prompt: ChatPrompt, settings: Mapping[str, Any], adapter: ChatAdapter | None = None
    ) -> AsyncGenerator[str | Answer, None]:
        answer = await self.complete(prompt, settings, adapter)
        yield answer.text
        yield answer


@pytest.fixture
def merged(adapters: dict[str, str], tmp_path: Path) -> MergedAdapters:
    identity = ("base", {name: name for name in adapters})
    return MergedAdapters(tmp_path / "merged", 4, identity, Merge(adapters), lambda _: None, 5.0)


def test_profiles_at_once_get_the_exact_merges_of_their_weights(
    merged: MergedAdapters, adapters: dict[str, str], tmp_path: Path
) -> None:
    weights = [{"P1A": 0.5, "P2B": 0.3, "P3A": 0.2}, {"P1A": 1.0}, {}]

    async def work() -> tuple[list[Answer], list[str | Answer]]:
        engine = Noting(4)
        policy = EnginePolicy(engine, merged, (2, 3))
        profiles = [REGISTRY.profile(each) if each else Profile() for each in weights]
        requests = [policy.complete([], {"temperature": 0.0}, profile) for profile in profiles]

        async def streamed() -> list[str | Answer]:
            return [piece async for piece in policy.stream([], {}, REGISTRY.profile("P1A"))]

        *answers, pieces = await asyncio.wait_for(asyncio.gather(*requests, streamed()), 20.0)
        assert engine.settings[0] == {"temperature": 0.0, "stop_token_ids": [2, 3]}
        assert (await policy.state()).merges == 2
        return answers, pieces  # type: ignore[return-value]

    (three, one, base), pieces = asyncio.run(work())
    assert base.text == "base" and pieces == [one.text, one]
    out = tmp_path / "by-hand"
    merge_adapters([adapters[name] for name in weights[0]], list(weights[0].values()), out, mode="delta")
    expected = load_file(out / "adapter_model.safetensors")
    found = load_file(Path(three.text) / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
