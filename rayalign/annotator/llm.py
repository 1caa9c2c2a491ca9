"""A language model as a judge: prompts out, verdicts in. The transport is a Completer's."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rayalign.annotator.completer import ChatMessage, Completer, Completion, UpstreamError, bound, limited
from rayalign.annotator.drawing import PADDING, batches
from rayalign.annotator.parsers import Parser, unfenced_json
from rayalign.annotator.prompts import Template, instruction_of, load_template
from rayalign.annotator.replies import encodable
from rayalign.annotator.verdicts import Pair, Paying, Usage, Verdict
from rayalign.config import LLMJudgeConfig, PromptedConfig
from rayalign.errors import InputError

EXPLANATIONS = ("explanation", "concise_explanation")
"""keys of a JSON answer that hold the ground of a verdict"""
_TRANSPORT = {
    "concurrency", "cpus", "deadline", "engines", "gpus", "key_variable", "price_per_completion_token",
    "price_per_prompt_token", "randomize_order", "retries", "template", "timeout",
}  # fmt: skip
"""settings that change no verdict; the template is told by its text"""
_MEANING = 1
"""raised whenever the same settings come to mean other prompts or other verdicts"""
_BYTES_PER_TOKEN = 4
_LONG_TOKEN = 8
"""bytes; no tokenizer of today takes so many to a token on the average of a text"""


class LLMJudge:
    """Compares pairs by asking a language model, `batch` of them in one prompt."""

    def __init__(
        self, config: PromptedConfig, completer: Completer, *, explanations: Sequence[str] = EXPLANATIONS
    ) -> None:
        """InputError when template, parser and batch size do not fit together.

        Args:
            config: of a model behind an endpoint, or of a hosted one.
            explanations: keys of a JSON answer to be kept as the verdict's explanation.
        """
        self._config = config
        self._completer = completer
        self._explanations = tuple(explanations)
        self._template = Template(load_template(config.template), batch_size=config.batch_size)
        self._parser = Parser(config.parser.name, config.parser.arguments)
        self._legacy = isinstance(config, LLMJudgeConfig) and config.legacy
        if self._parser.reads_logprobs != (config.reads == "logprobs"):
            wanted = "logprobs" if self._parser.reads_logprobs else "text"
            told = f"{self._parser.name} cannot read {config.reads}"
            raise InputError(f"judge: {told}; set `reads: {wanted}` or another parser")
        candidates: dict[str, Any] = {}
        if config.reads == "logprobs":
            candidates = {"logprobs": 5} if self._legacy else {"logprobs": True, "top_logprobs": 5}
        given = limited({"temperature": config.temperature, **candidates, **config.arguments}, config.max_tokens)
        self._arguments = given
        self.seeded = given["temperature"] != 0 and given.get("seed") is None
        """whether another seed of the request draws another answer"""
        settings = {**config.model_dump(exclude=_TRANSPORT), **completer.origin}
        told = json.dumps([_MEANING, self._template.text, self._arguments, settings], default=str)
        self.revision = hashlib.sha256(told.encode()).hexdigest()
        """over everything that decides the verdicts"""

    @property
    def batch(self) -> int:
        """Pairs in one prompt."""
        return self._config.batch_size

    async def judge(self, pairs: Sequence[Pair], *, seed: int, paying: Paying) -> list[Verdict]:
        """One verdict for each pair, in the order seen.

        `seed` decides which pairs share a prompt, and is sent along where answers are drawn (temperature above 0),
        unless the config's arguments hold one; null there: none is sent.

        A pair that could not be judged has a verdict without preference that says why: the endpoint's failure, or
        what is wrong with its answer.
        """
        groups = batches(len(pairs), self.batch, seed)
        asked = ([None if i is None else pairs[i] for i in g] for g in groups)
        # All to their end, also beside one that fails: until then nobody else may ask about these pairs.
        ended = await asyncio.gather(*(self._ask(group, seed, paying) for group in asked), return_exceptions=True)
        answers: list[list[Verdict]] = []
        for answer in ended:
            if isinstance(answer, BaseException):
                raise answer
            answers.append(answer)
        found = {
            i: v for group, verdicts in zip(groups, answers, strict=True) for i, v in zip(group, verdicts, strict=True)
        }
        return [found[i] for i in range(len(pairs))]

    def estimate(self, pairs: Sequence[Pair]) -> Usage:
        """About what judging will cost: four bytes a token, answers of full length."""
        return self._cost(pairs, _BYTES_PER_TOKEN)

    def least(self, pairs: Sequence[Pair]) -> Usage:
        """What judging will cost at the least: the prompts alone, in long tokens."""
        return self._cost(pairs, _LONG_TOKEN, answers=False)

    def _cost(self, pairs: Sequence[Pair], bytes_per_token: int, *, answers: bool = True) -> Usage:
        groups = batches(len(pairs), self.batch, 0)
        prompts = [self._prompt([None if i is None else pairs[i] for i in g]) for g in groups]
        counts = [bound(prompt, self._arguments, bytes_per_token) for prompt in prompts]
        asked, answered = sum(c[0] for c in counts), sum(c[1] for c in counts) if answers else 0
        price = 0.0
        if isinstance(self._config, LLMJudgeConfig):
            price = asked * self._config.price_per_prompt_token + answered * self._config.price_per_completion_token
        return Usage(asked, answered, price)

    async def _ask(self, group: Sequence[Pair | None], seed: int, paying: Paying) -> list[Verdict]:
        arguments = {"seed": seed, **self._arguments} if self.seeded else self._arguments
        real = [pair is not None for pair in group]
        try:
            completion = await self._completer.complete(self._prompt(group), arguments, paying)
        except UpstreamError as error:
            return [Verdict(None, str(error), usage=usage) for usage in _shares(error.usage, real)]
        return list(self._verdicts(completion, real))

    def _prompt(self, group: Sequence[Pair | None]) -> str | list[ChatMessage]:
        rows = [PADDING if pair is None else _row(pair) for pair in group]
        return self._template.fill(rows) if self._legacy else self._template.messages(rows)

    def _verdicts(self, completion: Completion, real: Sequence[bool]) -> Iterator[Verdict]:
        """One for each place in the prompt, padding too; what the answer cost is shared among the real pairs."""
        logprobs = self._config.reads == "logprobs"
        read: str | Mapping[str, Any] = _with_content(completion.choice) if logprobs else completion.text
        preferences: Sequence[float | None] = [None] * len(real)
        if isinstance(read, Mapping) and not (read.get("logprobs") or {}).get("content"):
            reason: str | None = "the endpoint returned no token log-probs; set `reads: text` with a parser of texts"
        else:
            preferences, reason = self._parser.read(read, len(real))
        grounds = explanations_in(completion.text, self._explanations, len(real))
        shares = _shares(completion.usage, real)
        for preference, ground, usage in zip(preferences, grounds, shares, strict=True):
            yield Verdict(preference, reason if preference is None else None, ground, read, None, usage)


def explanations_in(text: str, keys: Sequence[str], count: int) -> list[str]:
    """For each of `count` pairs what a JSON answer has under the keys; empty where it is no JSON or has none."""
    try:
        loaded = encodable(unfenced_json(text))
    except (ValueError, RecursionError):
        return [""] * count
    rows = loaded if isinstance(loaded, list) and len(loaded) == count else [loaded] * count
    return ["\n".join(str(row[k]) for k in keys if row.get(k)) if isinstance(row, dict) else "" for row in rows]


def _with_content(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """The choice with its log-probs as a chat endpoint tells them, where a legacy one told `tokens` and their like."""
    told = choice.get("logprobs")
    if not isinstance(told, Mapping):
        return {**choice, "logprobs": None}
    if told.get("content") or not told.get("top_logprobs"):
        return choice
    try:
        content = [
            {"token": token, "top_logprobs": [{"token": t, "logprob": p} for t, p in (top or {}).items()]}
            for token, top in zip(told.get("tokens") or (), told["top_logprobs"], strict=False)
        ]
    except (AttributeError, TypeError):  # other shapes than a legacy endpoint's tell nothing
        content = []
    return {**choice, "logprobs": {**told, "content": content}}


def _row(pair: Pair) -> dict[str, str]:
    prompt, first, second = pair
    return {"instruction": instruction_of(prompt), "input": "", "output_1": first, "output_2": second}


def _shares(cost: Usage, real: Sequence[bool]) -> Iterator[Usage]:
    """The cost of one call over its real pairs, all tokens to the first of them; nothing to padding."""
    price, seconds = cost.price / sum(real), cost.seconds / sum(real)
    tokens = cost.prompt_tokens, cost.completion_tokens
    for is_real in real:
        if is_real:
            yield Usage(*tokens, price, seconds)
            tokens = 0, 0
        else:
            yield Usage()
