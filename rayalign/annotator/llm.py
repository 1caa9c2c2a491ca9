"""A language model as a judge: prompts out, verdicts in. A `Completer` carries the prompts."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rayalign.annotator.completer import ChatMessage, Completer, Completion, CompletionError, bound, limited
from rayalign.annotator.parsers import Parser, unfenced_json
from rayalign.annotator.prompts import Template, instruction_of, load_template
from rayalign.annotator.replies import after_thoughts, encodable
from rayalign.annotator.sampling import PADDING, batches
from rayalign.annotator.verdicts import Pair, Paying, Usage, Verdict
from rayalign.config import LLMJudgeConfig, PromptedConfig
from rayalign.data.preferences import CRITERION
from rayalign.errors import InputError

EXPLANATIONS = ("explanation", "concise_explanation")
"""keys of a JSON answer that hold the ground of a verdict"""
HELPFULNESS = "which answer serves the person who asked better"
"""the criterion for a prompt without preferences"""
_TRANSPORT = {
    "concurrency", "cpus", "deadline", "engines", "gpus", "key_variable", "price_per_completion_token",
    "price_per_prompt_token", "randomize_order", "retries", "template", "timeout",
}  # fmt: skip
"""settings that change no verdict; of the template its text counts"""
_MEANING = 2
"""goes up whenever the same settings come to mean other prompts or other verdicts"""
_BYTES_PER_TOKEN = 4
_LONG_TOKEN = 8
"""bytes; no tokenizer of today averages so many for a token"""


class LLMJudge:
    """Compares pairs by prompting a language model, `batch` of them in one prompt."""

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
            readable = "logprobs" if self._parser.reads_logprobs else "text"
            problem = f"{self._parser.name} cannot read {config.reads}"
            raise InputError(f"judge: {problem}; set `reads: {readable}` or another parser")
        self._arguments = self._request_arguments()
        self.seeded = self._arguments["temperature"] != 0 and self._arguments.get("seed") is None
        """whether another seed of the request draws another answer"""
        settings = {**config.model_dump(exclude=_TRANSPORT), **completer.origin}
        identity = json.dumps([_MEANING, self._template.text, self._arguments, settings], default=str)
        self.revision = hashlib.sha256(identity.encode()).hexdigest()
        """hash of everything that decides the verdicts"""

    def _request_arguments(self) -> dict[str, Any]:
        config = self._config
        arguments: dict[str, Any] = {"temperature": config.temperature}
        if config.reads == "logprobs":
            arguments |= {"logprobs": 5} if self._legacy else {"logprobs": True, "top_logprobs": 5}
        return limited({**arguments, **config.arguments}, config.max_tokens)

    @property
    def batch(self) -> int:
        """Pairs in one prompt."""
        return self._config.batch_size

    async def judge(self, pairs: Sequence[Pair], *, seed: int, paying: Paying) -> list[Verdict]:
        """One verdict for each pair, in the order seen.

        `seed` decides which pairs share a prompt. Where the model draws answers (temperature above 0) the request
        carries it too, unless the config's arguments hold a seed; null there: no seed is sent.

        A verdict without preference names the reason: the endpoint's failure, or the fault of its answer.
        """
        groups = batches(len(pairs), self.batch, seed)
        calls = [self._judge_group(self._members(group, pairs), seed, paying) for group in groups]
        # All of them end, also beside one that fails: until then nobody else may judge these pairs.
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        verdicts: dict[int, Verdict] = {}
        for group, outcome in zip(groups, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome
            for index, verdict in zip(group, outcome, strict=True):
                if index is not None:
                    verdicts[index] = verdict
        return [verdicts[index] for index in range(len(pairs))]

    def estimate(self, pairs: Sequence[Pair]) -> Usage:
        """The estimated cost of judging: four bytes a token, answers of full length."""
        return self._cost(pairs, _BYTES_PER_TOKEN)

    def least(self, pairs: Sequence[Pair]) -> Usage:
        """The least that judging can cost: the prompts alone, in long tokens."""
        return self._cost(pairs, _LONG_TOKEN, answers=False)

    def _cost(self, pairs: Sequence[Pair], bytes_per_token: int, *, answers: bool = True) -> Usage:
        prompt_tokens = answer_tokens = 0
        for group in batches(len(pairs), self.batch, 0):
            prompt = self._prompt(self._members(group, pairs))
            prompt_bound, answer_bound = bound(prompt, self._arguments, bytes_per_token)
            prompt_tokens += prompt_bound
            answer_tokens += answer_bound if answers else 0
        if not isinstance(self._config, LLMJudgeConfig):
            return Usage(prompt_tokens, answer_tokens)
        prompt_price = prompt_tokens * self._config.price_per_prompt_token
        answer_price = answer_tokens * self._config.price_per_completion_token
        return Usage(prompt_tokens, answer_tokens, prompt_price + answer_price)

    @staticmethod
    def _members(group: Sequence[int | None], pairs: Sequence[Pair]) -> list[Pair | None]:
        """The pairs of one prompt; None for padding."""
        return [None if index is None else pairs[index] for index in group]

    async def _judge_group(self, group: Sequence[Pair | None], seed: int, paying: Paying) -> list[Verdict]:
        arguments = {"seed": seed, **self._arguments} if self.seeded else self._arguments
        real = [pair is not None for pair in group]
        try:
            completion = await self._completer.complete(self._prompt(group), arguments, paying)
        except CompletionError as error:
            return [Verdict(None, str(error), usage=usage) for usage in _shares(error.usage, real)]
        return list(self._verdicts(completion, real))

    def _prompt(self, group: Sequence[Pair | None]) -> str | list[ChatMessage]:
        rows = [PADDING if pair is None else _row(pair) for pair in group]
        return self._template.fill(rows) if self._legacy else self._template.messages(rows)

    def _verdicts(self, completion: Completion, real: Sequence[bool]) -> Iterator[Verdict]:
        """One verdict for each place in the prompt, padding too; the real pairs share the cost."""
        logprobs = self._config.reads == "logprobs"
        read: str | Mapping[str, Any] = _with_content(completion.choice) if logprobs else completion.text
        reason: str | None
        if isinstance(read, Mapping) and not (read.get("logprobs") or {}).get("content"):
            preferences: Sequence[float | None] = [None] * len(real)
            reason = "the endpoint returned no token log-probs; set `reads: text` with a parser of texts"
        else:
            preferences, reason = self._parser.read(read, len(real))
        grounds = explanations_in(completion.text, self._explanations, len(real))
        shares = _shares(completion.usage, real)
        for preference, ground, usage in zip(preferences, grounds, shares, strict=True):
            yield Verdict(preference, reason if preference is None else None, ground, read, None, usage)


def explanations_in(text: str, keys: Sequence[str], count: int) -> list[str]:
    """For each of `count` pairs the texts of a JSON answer under the keys; empty where it is no JSON or has none."""
    try:
        answer = encodable(unfenced_json(after_thoughts(text)))
    except (ValueError, RecursionError):
        return [""] * count
    rows = answer if isinstance(answer, list) and len(answer) == count else [answer] * count
    return [_explanation(row, keys) for row in rows]


def _explanation(row: Any, keys: Sequence[str]) -> str:
    if not isinstance(row, dict):
        return ""
    return "\n".join(str(row[key]) for key in keys if row.get(key))


def _with_content(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """The choice with its log-probs in the chat endpoint's form, also where a legacy endpoint returned its own."""
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, Mapping):
        return {**choice, "logprobs": None}
    if logprobs.get("content") or not logprobs.get("top_logprobs"):
        return choice
    return {**choice, "logprobs": {**logprobs, "content": _chat_content(logprobs)}}


def _chat_content(logprobs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A legacy endpoint's tokens in the chat endpoint's form; empty where they have neither form."""
    content: list[dict[str, Any]] = []
    try:
        for token, top in zip(logprobs.get("tokens") or (), logprobs["top_logprobs"], strict=False):
            entries = [{"token": text, "logprob": value} for text, value in (top or {}).items()]
            content.append({"token": token, "top_logprobs": entries})
    except (AttributeError, TypeError):
        return []
    return content


def _row(pair: Pair) -> dict[str, str]:
    prompt, first, second = pair
    criterion = prompt.meta.get(CRITERION, HELPFULNESS)
    texts = {"instruction": instruction_of(prompt), "input": "", "criterion": criterion}
    return {**texts, "output_1": first, "output_2": second}


def _shares(cost: Usage, real: Sequence[bool]) -> Iterator[Usage]:
    """The cost of one call split over its real pairs, all tokens to the first of them; nothing for padding."""
    price, seconds = cost.price / sum(real), cost.seconds / sum(real)
    tokens = cost.prompt_tokens, cost.completion_tokens
    for is_real in real:
        if is_real:
            yield Usage(*tokens, price, seconds)
            tokens = 0, 0
        else:
            yield Usage()
