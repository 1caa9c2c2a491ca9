"""Judges of the benchmarks: a language model that reads their prompts, or any annotator that compares pairs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rayalign.annotator.asking.connect import Annotator, connect, item_in
from rayalign.annotator.endpoints.language_model import ChatMessage, CompletionError, LanguageModel
from rayalign.annotator.endpoints.openai_client import OpenAIModel
from rayalign.annotator.judges.verdicts import Bill, Paying, Usage
from rayalign.annotator.service_file import load_service
from rayalign.annotator.store.account import Account
from rayalign.annotator.store.budget import Budget
from rayalign.annotator.store.database import Database
from rayalign.config import LLMJudgeConfig, nearest
from rayalign.errors import InputError

_TIMEOUT, _DEADLINE = 600.0, 1800.0
"""seconds of one attempt and of one judgment at an endpoint without a file: judges write long texts"""


@dataclass(frozen=True, slots=True)
class Game:
    """One verdict or rating to ask for, for both kinds of judges."""

    messages: tuple[ChatMessage, ...]
    """the dialogue for a language model"""
    pair: tuple[str, str, str] | None = None
    """the prompt and the two answers for an annotator; None: it has no form for the question"""
    marks: tuple[str, str, str] = ("", "", "")
    """the annotator's verdict in words: the first answer is better, a tie, the second is better"""


class Reply(NamedTuple):
    """A judge's text and its cost."""

    text: str
    price: float
    """US dollars"""
    seconds: float


class BenchJudge(Protocol):
    """Who judges a benchmark."""

    @property
    def name(self) -> str:
        """The judge's name in the judgment files."""

    @property
    def at_once(self) -> int:
        """Games in progress at the same time."""

    async def reply(self, game: Game, earlier: Sequence[ChatMessage] = ()) -> Reply:
        """The judge's text.

        Args:
            earlier: turns of this game that follow its messages: the judge's own text and a request to go on.

        Raises:
            CompletionError: no reply to this game.
            RayalignError: no further game can be judged, such as when the budget is spent.
        """

    async def close(self) -> None:
        """Close the connections."""


class ModelJudge:
    """A language model behind an OpenAI-compatible endpoint."""

    def __init__(
        self, name: str, model: LanguageModel, arguments: dict[str, Any], *, account: Account | None, at_once: int
    ) -> None:
        self.name, self.at_once = name, at_once
        self._model, self._arguments, self._account = model, arguments, account
        self._paying: Paying = account.paying if account else _unmetered

    async def reply(self, game: Game, earlier: Sequence[ChatMessage] = ()) -> Reply:
        """As `BenchJudge.reply`."""
        try:
            completion = await self._model.complete([*game.messages, *earlier], self._arguments, self._paying)
        except CompletionError:
            if self._account and self._account.refused:
                raise self._account.refused from None
            raise
        return Reply(completion.text, completion.usage.price, completion.usage.seconds)

    async def close(self) -> None:
        """As `BenchJudge.close`."""
        if isinstance(self._model, OpenAIModel):
            await self._model.close()


class AnnotatorJudge:
    """An annotator of pairs; its verdicts become the marks of the benchmark."""

    at_once = 1

    def __init__(self, name: str, annotator: Annotator) -> None:
        self.name = name
        self._annotator = annotator

    async def reply(self, game: Game, earlier: Sequence[ChatMessage] = ()) -> Reply:
        """As `BenchJudge.reply`.

        Raises:
            InputError: the game is no pair.
        """
        if game.pair is None:
            raise InputError(f"the annotator {self.name} compares pairs; ratings need a judge of kind llm")
        prompt, *answers = game.pair
        row = {"instruction": prompt, "output_1": answers[0], "output_2": answers[1]}
        item = item_in(row, f"a pair for the annotator {self.name}")
        # in a thread, since the annotator runs an event loop of its own
        (annotation,) = await asyncio.to_thread(list, self._annotator.annotate([item]))
        if annotation.preference is None:
            raise CompletionError(annotation.reason or "the annotator has no verdict")
        mark = _mark(annotation.preference, game.marks)
        return Reply(f"{annotation.explanation}\n\n{mark}".strip(), annotation.price, annotation.seconds)

    async def close(self) -> None:
        """As `BenchJudge.close`."""
        await asyncio.to_thread(self._annotator.close)


@dataclass(frozen=True, slots=True)
class JudgeChoice:
    """Who is to judge."""

    name: str
    """an annotator of the file or service, or with `base_url` the model at the endpoint"""
    at: str | None = None
    """a pool's file or the URL of a service; None: the embedded pool"""
    base_url: str | None = None
    """an OpenAI-compatible endpoint, in the place of `at`"""
    key_variable: str = "OPENAI_API_KEY"


def open_judge(choice: JudgeChoice, *, max_tokens: int) -> BenchJudge:
    """The chosen judge.

    Args:
        max_tokens: of an answer, unless the annotator's file says something else.

    Raises:
        InputError: no such annotator, one that only a service can run, or no key.
    """
    if choice.base_url is not None:
        config = LLMJudgeConfig(
            kind="llm",
            model=choice.name,
            base_url=choice.base_url,
            key_variable=choice.key_variable,
            timeout=_TIMEOUT,
            deadline=_DEADLINE,
        )
        return _model_judge(choice.name, config, max_tokens, None)
    if choice.at is not None and choice.at.startswith(("http://", "https://")):
        return AnnotatorJudge(choice.name, connect(choice.at, choice.name))
    service = load_service(None if choice.at is None else Path(choice.at))
    if choice.name not in service.annotators:
        remedy = nearest(choice.name, list(service.annotators))
        raise InputError(f"judge: there is no annotator {choice.name!r}; {remedy}, or give --base-url of a model")
    section = service.annotators[choice.name].judge
    if not isinstance(section, LLMJudgeConfig):
        return AnnotatorJudge(choice.name, connect(choice.at, choice.name))
    account = Account(Budget(Database(service.cache), service.budget), choice.name, "")
    return _model_judge(choice.name, section, max_tokens, account)


def _mark(preference: float, marks: tuple[str, str, str]) -> str:
    first, tie, second = marks
    if preference == 1.5:
        return tie
    return first if preference < 1.5 else second


def _model_judge(name: str, config: LLMJudgeConfig, max_tokens: int, account: Account | None) -> ModelJudge:
    if config.legacy:
        raise InputError(f"judge {name}: the benchmarks need a chat endpoint; leave `legacy` out")
    limit = config.max_tokens if "max_tokens" in config.model_fields_set else max_tokens
    arguments = {"temperature": config.temperature, "max_tokens": limit, **config.arguments}
    return ModelJudge(name, OpenAIModel(config), arguments, account=account, at_once=config.concurrency)


@asynccontextmanager
async def _unmetered(most: Usage, wait: float, lease: float) -> AsyncIterator[Bill]:
    """As `Paying`, without a budget."""
    yield Bill()
