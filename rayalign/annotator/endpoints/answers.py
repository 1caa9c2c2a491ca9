"""Answers that a model behind an OpenAI-compatible endpoint writes, for candidates of several sources."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rayalign.annotator.endpoints.language_model import CompletionError
from rayalign.annotator.endpoints.openai_client import OpenAIModel
from rayalign.annotator.judges.verdicts import Bill, Usage
from rayalign.config import Endpoint, LLMJudgeConfig, SamplingConfig
from rayalign.types import Prompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """One answer to be written."""

    prompt: Prompt
    seed: int


async def write_answers(
    endpoint: Endpoint, requests: Sequence[AnswerRequest], sampling: SamplingConfig
) -> list[str | None]:
    """The answer to each request; None where the endpoint gave none, after the retries.

    Raises:
        InputError: the environment has no key for it.
    """
    model = OpenAIModel(
        LLMJudgeConfig(
            kind="llm",
            model=endpoint.model,
            base_url=endpoint.base_url,
            key_variable=endpoint.key_variable,
            concurrency=endpoint.concurrency,
            timeout=endpoint.timeout,
            deadline=endpoint.deadline,
        )
    )
    failures: list[str] = []

    async def answer(request: AnswerRequest) -> str | None:
        dialogue = [{"role": turn.role, "content": turn.content} for turn in request.prompt.messages]
        arguments = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": request.seed,
        }
        try:
            text = (await model.complete(dialogue, arguments, _unpaid)).text
        except CompletionError as error:
            failures.append(str(error))
            return None
        return text if text.strip() else None

    answers = await asyncio.gather(*map(answer, requests))
    absent = sum(text is None for text in answers)
    if absent:
        reason = failures[0] if failures else "an answer without text"
        logger.warning("%s: %d of %d answers are absent; %s", endpoint.model, absent, len(answers), reason)
    return list(answers)


@asynccontextmanager
async def _unpaid(most: Usage, wait: float, longest: float) -> AsyncIterator[Bill]:
    """A run's candidates have no budget."""
    yield Bill()
