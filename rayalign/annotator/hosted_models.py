"""The judges' own models as the pool calls them, whatever carries the calls to their processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rayalign.annotator.completer import Completion, CompletionError, bound
from rayalign.annotator.verdicts import Paying, Usage
from rayalign.config import HostedJudgeConfig, RewardJudgeConfig
from rayalign.errors import RayalignError
from rayalign.rollout.chat import Answer, ChatPrompt
from rayalign.types import Prompt, Score

_SAMPLING = frozenset(
    {"max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "presence_penalty", "frequency_penalty"}
)
"""a judge's arguments that vLLM takes under the same name"""


class RemoteScoring:
    """A reward model in another process; implements `Scoring`.

    Args:
        call: sends answers to the model. RayalignError: it failed.
    """

    batch = 64

    def __init__(
        self,
        call: Callable[[list[tuple[Prompt, str]]], Awaitable[list[Score]]],
        section: RewardJudgeConfig,
        timeout: float,
    ) -> None:
        self._call = call
        self._timeout = timeout
        self.revision = f"{section.model}/{section.context}/{_state_of(Path(section.model))}"

    async def scores(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """As `Scoring.scores`; absent with the reason where the model does not answer."""
        try:
            return await asyncio.wait_for(self._call(list(items)), self._timeout)
        except RayalignError as error:
            reason = str(error)
        except TimeoutError:
            reason = f"no answer within {self._timeout:g} s"
        return [Score(None, f"the reward model did not answer: {reason}")] * len(items)


class RemoteModel:
    """A language model in another process; implements `Completer`.

    Args:
        call: sends a prompt and vLLM's sampling parameters to the model. RayalignError: it failed, as
            `VllmChat.complete`.
    """

    def __init__(
        self,
        call: Callable[[ChatPrompt, Mapping[str, Any]], Awaitable[Answer]],
        section: HostedJudgeConfig,
        timeout: float,
    ) -> None:
        self._call = call
        self._timeout = timeout
        state = _state_of(Path(section.model))
        self.origin = {"model": f"{section.model}/{state}" if state else section.model}

    async def complete(self, prompt: ChatPrompt, arguments: Mapping[str, Any], paying: Paying) -> Completion:
        """As `Completer.complete`."""
        start = time.perf_counter()
        settings = {name: value for name, value in arguments.items() if name in _SAMPLING and value is not None}
        if arguments.get("logprobs"):
            settings["logprobs"] = arguments.get("top_logprobs", 0)
        try:
            async with paying(Usage(*bound(prompt, arguments)), self._timeout, self._timeout) as bill:
                answer = await self._call(prompt, settings)
                seconds = time.perf_counter() - start
                bill.cost = Usage(answer.prompt_tokens, answer.completion_tokens, 0.0, seconds)
        except RayalignError as error:
            raise CompletionError(str(error)) from error
        return Completion(answer.text, _choice(answer, with_logprobs="logprobs" in settings), bill.cost)


def _choice(answer: Answer, *, with_logprobs: bool) -> dict[str, Any]:
    """The answer as a choice in OpenAI's schema."""
    message = {"role": "assistant", "content": answer.text}
    choice: dict[str, Any] = {"message": message, "finish_reason": answer.finish_reason}
    if with_logprobs:
        choice["logprobs"] = {"content": [_token_logprobs(position) for position in answer.logprobs]}
    return choice


def _token_logprobs(position: Mapping[str, float]) -> dict[str, Any]:
    """One token in OpenAI's schema; the first of the position is the token itself."""
    ranked = [{"token": token, "logprob": value} for token, value in position.items()]
    return {**ranked[0], "top_logprobs": ranked}


def _state_of(folder: Path) -> str:
    """Changes when the model of a local folder is written anew; empty where there is no such folder."""
    files = sorted(folder.glob("*")) if folder.is_dir() else []
    return ",".join(f"{f.name}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in files)
