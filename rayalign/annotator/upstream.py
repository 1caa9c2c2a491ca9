"""A language model behind any OpenAI-compatible endpoint, asked until it answers or the deadline is over."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from rayalign.annotator.breaker import Breaker
from rayalign.annotator.budget import BudgetError
from rayalign.annotator.completer import ChatMessage, Completion, UpstreamError, bound
from rayalign.annotator.verdicts import Bill, Paying, Usage
from rayalign.config.annotators import LLMJudgeConfig
from rayalign.errors import InputError

if TYPE_CHECKING:
    import openai

_BACKOFF = (0.25, 20.0)
"""seconds that the first retry waits at most, and any"""
_IN_PROGRESS = 4
"""calls begun for each slot: those between two attempts give theirs to others"""
_GAP = 0.001
"""seconds between two sends: what is sent together is answered together, and then waits for this process in a queue"""
_UNSENT = ("ConnectError", "ConnectTimeout")
"""errors before a request was sent, by name: which HTTP client raises them is openai's affair"""
Messages = str | Sequence[ChatMessage]


class _Trouble(Exception):
    """An attempt failed; unless it is final, another may not."""

    def __init__(self, reason: str, retry_after: float = 0.0, *, final: bool = False) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.final = final


@dataclass(slots=True)
class _Call:
    """One request, and what its attempts cost."""

    path: str
    body: dict[str, Any]
    most: Usage
    """of one attempt"""
    deadline: float
    paying: Paying
    bills: list[Bill] = field(default_factory=list)

    @property
    def cost(self) -> Usage:
        return sum((bill.cost for bill in self.bills), Usage())


class OpenAIUpstream:
    """A `Completer` over the `openai` package, for one event loop.

    429, 5xx, time-outs, lost connections, replies that cannot be read and empty ones are retried with exponential
    backoff and full jitter (Brooker, "Exponential Backoff And Jitter", 2015), no sooner than Retry-After says. Other
    4xx fail at once. A refusal costs nothing; what was sent and got no readable answer counts as all that it can cost.
    Every attempt at one request carries the same `Idempotency-Key`, the hash of the request, so that an endpoint that
    knows the header bills it once; equal requests that are to give different samples need a different argument, such as
    `seed`.

    Args:
        config: `timeout` bounds an attempt, `deadline` and `retries` a call from the moment that it is begun.
        clock: seconds, monotonic.
        wall: unix seconds, for dates in Retry-After.
        jitter: uniform in [0, 1).

    Raises:
        InputError: the key's environment variable is empty, or the URL is none.
    """

    def __init__(
        self,
        config: LLMJudgeConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._clock, self._wall, self._sleep, self._jitter = clock, wall, sleep, jitter
        self._key = _key(config)
        self._url = config.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        self._client = _client(config, self._key, self._url)
        self._begun = asyncio.Semaphore(_IN_PROGRESS * config.concurrency)
        self._slots = asyncio.Semaphore(config.concurrency)
        self._breaker = Breaker(clock, sleep)
        self._next = -math.inf

    @property
    def origin(self) -> Mapping[str, str]:
        """As `Completer.origin`."""
        return {"base_url": self._url}

    async def complete(self, prompt: Messages, arguments: Mapping[str, Any], paying: Paying) -> Completion:
        """One reply.

        Args:
            prompt: a dialogue, or a text for /v1/completions.
            arguments: all fields but model and prompt; None: not sent; without a limit to the answer, the config's.
            paying: around every attempt.

        Raises:
            UpstreamError: refused, in trouble at the deadline or after the last retry, or without budget for another.
        """
        path, body = self._request(prompt, arguments)
        async with self._begun:
            started = self._clock()
            most = self._usage(*bound(prompt, body))
            call = _Call(path, body, most, started + self._config.deadline, paying)
            for attempt in range(self._config.retries + 1):
                try:
                    choice = await self._attempt(call)
                    return Completion(_text(choice), choice, replace(call.cost, seconds=self._clock() - started))
                except BudgetError as error:
                    raise UpstreamError(str(error), call.cost) from None
                except _Trouble as trouble:
                    last = trouble
                if last.final:
                    raise UpstreamError(str(last), call.cost)
                longest = min(_BACKOFF[1], _BACKOFF[0] * 2.0**attempt)
                pause = max(last.retry_after, self._jitter() * longest)
                if attempt == self._config.retries or self._clock() + pause >= call.deadline:
                    break
                await self._sleep(pause)
        raise UpstreamError(
            f"{self._name} gave no answer in {attempt + 1} attempts and {self._clock() - started:.0f} s; "
            f"the last one: {last}",
            call.cost,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    @property
    def _name(self) -> str:
        return f"{self._config.model} at {self._client.base_url.host}"

    def _request(self, messages: Messages, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        limit = {} if "max_completion_tokens" in arguments else {"max_tokens": self._config.max_tokens}
        given = {**limit, **arguments, "model": self._config.model}
        body = {name: value for name, value in given.items() if value is not None}
        if isinstance(messages, str):
            return "/completions", {**body, "prompt": messages}
        return "/chat/completions", {**body, "messages": [dict(turn) for turn in messages]}

    async def _attempt(self, call: _Call) -> Mapping[str, Any]:
        """The choice of one request in a slot; for the breaker what is final is a sign of life."""
        async with self._slots:
            probe = await self._breaker.admit(call.deadline)
            good: bool | None = None
            retry_after = 0.0
            try:
                await self._spread()
                choice = await self._paid(call)
                good = True
                return choice
            except TimeoutError:
                raise _Trouble("the endpoint is down, and no attempt could be made in time") from None
            except _Trouble as trouble:
                good, retry_after = trouble.final, trouble.retry_after
                raise
            finally:
                self._breaker.note(probe, good, retry_after)

    async def _paid(self, call: _Call) -> Mapping[str, Any]:
        async with call.paying(call.most, call.deadline - self._clock(), self._config.timeout) as bill:
            call.bills.append(bill)
            sent = self._clock()
            if (left := call.deadline - sent) <= 0:
                raise TimeoutError
            bill.cost = call.most  # from here on it may be billed, whatever comes back
            choice = self._read(await self._send(call, min(self._config.timeout, left), bill), call.most, bill)
            bill.cost = replace(bill.cost, seconds=self._clock() - sent)
            return choice

    async def _spread(self) -> None:
        now = self._clock()
        self._next = max(self._next + _GAP, now)
        if self._next > now:
            await self._sleep(self._next - now)

    async def _send(self, call: _Call, seconds: float, bill: Bill) -> str:
        import openai

        content = json.dumps(call.body, sort_keys=True).encode()
        whole = hashlib.sha256(f"{self._client.base_url} {call.path} ".encode() + content)
        headers = {"Idempotency-Key": whole.hexdigest()}
        try:
            async with asyncio.timeout(seconds):
                return await self._client.post(call.path, cast_to=str, content=content, options={"headers": headers})
        except (TimeoutError, openai.APITimeoutError) as error:
            told, cause = f"no reply within {seconds:.3g} s", error.__cause__
        except openai.APIConnectionError as error:
            told, cause = f"the connection failed ({_plain(str(error.__cause__ or error), self._key)})", error.__cause__
        except openai.APIStatusError as error:
            bill.cost = Usage()
            raise self._status(error) from None
        if type(cause).__name__ in _UNSENT:
            bill.cost = Usage()
        raise _Trouble(told)

    def _status(self, error: openai.APIStatusError) -> _Trouble:
        """Trouble to retry, or the end; the endpoint's words only where no key can be in them."""
        status = error.status_code
        spent = error.code == "insufficient_quota"
        if (status in (408, 429) and not spent) or status >= 500:
            pause = self._retry_after(error.response.headers.get("retry-after"))
            return _Trouble(f"status {status}" + (f", to be asked again in {pause:.0f} s" if pause else ""), pause)
        if status in (401, 403):
            told = f"the key in {self._config.key_variable} (status {status})"
        else:
            told = f"the request (status {status}): {_plain(error.message, self._key)}"
        return _Trouble(f"{self._name} refused {told}", final=True)

    def _retry_after(self, header: str | None) -> float:
        """Seconds from now; 0 where the header is missing or makes no sense (RFC 9110, 10.2.3)."""
        if not header:
            return 0.0
        try:
            if header.strip().replace(".", "", 1).isdigit():
                return float(header)
            return max(0.0, parsedate_to_datetime(header).timestamp() - self._wall())
        except ValueError:
            return 0.0

    def _read(self, text: str, most: Usage, bill: Bill) -> Mapping[str, Any]:
        """The choice, if it can be read and is not empty; what the reply says it cost goes on the bill first."""
        try:
            reply = json.loads(text)
            told = dict(reply.get("usage") or {})
            prompt, answer = told.get("prompt_tokens"), told.get("completion_tokens")
            bill.cost = self._usage(
                prompt if isinstance(prompt, int) else most.prompt_tokens,
                answer if isinstance(answer, int) else most.completion_tokens,
            )
            choice = dict(reply["choices"][0])
            said = _text(choice)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise _Trouble("a reply that cannot be read") from None
        reason = choice.get("finish_reason")
        if not said and reason in ("length", "content_filter"):
            # Asked again it would be paid for again, and end in the same way.
            raise _Trouble(f"the answer ended before it said anything (finish_reason {reason})", final=True)
        if not said:
            raise _Trouble("an empty answer")
        return choice

    def _usage(self, prompt: int, answer: int) -> Usage:
        config = self._config
        price = prompt * config.price_per_prompt_token + answer * config.price_per_completion_token
        return Usage(prompt, answer, price)


def _key(config: LLMJudgeConfig) -> str:
    key = os.environ.get(config.key_variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise InputError(
            f"judge {config.model}: the environment variable {config.key_variable} holds no key; set it (an endpoint "
            "that asks for none takes any word), or name another in `key_variable`"
        )
    return key


def _client(config: LLMJudgeConfig, key: str, url: str) -> openai.AsyncOpenAI:
    import openai

    if not url.startswith(("http://", "https://")):
        raise InputError(f"judge {config.model}: base_url {url!r} is no address; give one such as http://host:8000/v1")
    return openai.AsyncOpenAI(api_key=key, base_url=url, timeout=config.timeout, max_retries=0)


def _text(choice: Mapping[str, Any]) -> str:
    """What was said, of a chat or a legacy choice; where a tool was called, that call's arguments."""
    said = choice["text"] if "text" in choice else choice["message"].get("content")
    if not said and (calls := (choice.get("message") or {}).get("tool_calls")):
        said = calls[0]["function"]["arguments"]
    if said is not None and not isinstance(said, str):
        raise TypeError("the answer is no text")
    return said or ""


def _plain(text: str, key: str) -> str:
    """The start of a message of others, on one line, without the key."""
    return " ".join(text.replace(key, "***").split())[:300]
