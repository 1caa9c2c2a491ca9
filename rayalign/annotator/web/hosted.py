"""A judge's local language model on vLLM, and how OpenAI's endpoints offer it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, Protocol

from rayalign.annotator.completions import Delta, Token
from rayalign.annotator.verdicts import Usage
from rayalign.config import HostedJudgeConfig, RolloutConfig
from rayalign.rollout.vllm_stream import Piece, VllmStream

Prompt = str | Sequence[Mapping[str, str]]
SAMPLING = frozenset(
    {"max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "presence_penalty", "frequency_penalty", "logprobs"}
)
"""arguments that vLLM takes under the same name"""


def rollout_config(section: HostedJudgeConfig) -> RolloutConfig:
    """The engine's settings for a hosted model."""
    return RolloutConfig(context=section.context, dtype=section.dtype, max_sequences=64, gpus=section.gpus)


class HostedModel:
    """One vLLM engine; requests at the same time share its steps."""

    def __init__(self, section: HostedJudgeConfig, timeout: float) -> None:
        self._engine = VllmStream(section.model, rollout_config(section), timeout)

    async def stream(self, prompt: Prompt, arguments: Mapping[str, Any]) -> AsyncGenerator[Piece, None]:
        """The answer, piece by piece; `logprobs` is how many likeliest tokens are told beside each token's own."""
        settings = {key: value for key, value in arguments.items() if key in SAMPLING and value is not None}
        async with aclosing(self._engine.stream(prompt, settings)) as pieces:
            async for piece in pieces:
                yield piece


class Streaming(Protocol):
    """A hosted model, wherever it runs."""

    def stream(self, prompt: Prompt, arguments: Mapping[str, Any]) -> AsyncGenerator[Piece, None]:
        """As `HostedModel.stream`."""


class HostedChat:
    """The model as OpenAI's endpoints offer it."""

    def __init__(self, model: Streaming) -> None:
        self._model = model

    async def complete(
        self, messages: list[dict[str, str]] | str, arguments: Mapping[str, Any]
    ) -> AsyncGenerator[Delta, None]:
        """As `Hosted.complete`."""
        written = 0
        async with aclosing(self._model.stream(messages, arguments)) as pieces:
            async for piece in pieces:
                written += piece.completion_tokens
                usage = Usage(piece.prompt_tokens, written) if piece.finish_reason else None
                reason: Literal["length", "stop"] | None = None
                if piece.finish_reason is not None:
                    reason = "length" if piece.finish_reason == "length" else "stop"
                tokens = tuple(Token(next(iter(p)), next(iter(p.values())), p) for p in piece.logprobs)
                yield Delta(piece.text, reason, tokens, usage=usage)
