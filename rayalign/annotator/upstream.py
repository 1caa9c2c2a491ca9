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
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rayalign.annotator.breaker import Breaker
from rayalign.annotator.budget import BusyError
from rayalign.annotator.completer import ChatMessage, Completion, UpstreamError, bound, limited
from rayalign.annotator.replies import counted, encodable, plain, retry_after, text_of
from rayalign.annotator.verdicts import Bill, Paying, Usage
from rayalign.config.annotators import LLMJudgeConfig
from rayalign.errors import DeadlineError, InputError, RayalignError

if TYPE_CHECKING:
    import openai

_BACKOFF = (0.25, 20.0)
"""seconds that the first retry waits at most, and any"""
_BUSY = (0.01, 1.0)
"""seconds, at first and at most, until it is tried again whether requests in flight have left enough of the budget"""
_IN_PROGRESS = 4
"""calls begun for each slot: those between two attempts give theirs to others"""
_GAP = 0.001
"""seconds between two sends: what is sent together is answered together, and then waits for this process in a queue"""
_CONNECT = 10.0
"""seconds to connect, at most"""
_UNSENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")
"""errors before a request was sent, by name: which HTTP client raises them is openai's affair"""
_UNSURE = frozenset({408, 504, *range(520, 530)})
"""statuses of gateways: what stands behind them may have answered, and sent its bill"""
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
    paying: Paying
    started: float
    deadline: float
    attempts: int = 0
    bills: list[Bill] = field(default_factory=list)

    @property
    def cost(self) -> Usage:
        return sum((bill.cost for bill in self.bills), Usage())


class OpenAIUpstream:
    """A `Completer` over the `openai` package, for one event loop.

    429, 5xx, time-outs, lost connections, replies that cannot be read and empty ones are retried with exponential
    backoff and full jitter (Brooker, "Exponential Backoff And Jitter", 2015), no sooner than Retry-After says. Other
    4xx fail at once. A refusal costs nothing; what was sent and got no readable answer, or a gateway's word that none
    came in time (408, 504, 520 to 529), counts as all that it can cost.
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
        call: _Call | None = None
        longest = _BUSY[0]
        while True:
            async with self._begun:
                call = call or self._call(prompt, arguments, paying)
                try:
                    choice = await self._tried(call)
                    return Completion(text_of(choice), choice, replace(call.cost, seconds=self._clock() - call.started))
                except RayalignError as caught:
                    busy, error = isinstance(caught, BusyError), UpstreamError(str(caught), call.cost)
            # Who waits for the budget of one client keeps nothing from the others.
            pause, longest = self._jitter() * longest, min(2 * longest, _BUSY[1])
            if not busy or self._clock() + pause >= call.deadline:
                raise error
            await self._sleep(pause)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    @property
    def _name(self) -> str:
        return f"{self._config.model} at {self._client.base_url.host}"

    def _call(self, prompt: Messages, arguments: Mapping[str, Any], paying: Paying) -> _Call:
        given = {**limited(arguments, self._config.max_tokens), "model": self._config.model}
        body = {name: value for name, value in given.items() if value is not None}
        most, started = self._usage(*bound(prompt, body)), self._clock()
        if isinstance(prompt, str):
            path, body["prompt"] = "/completions", prompt
        else:
            path, body["messages"] = "/chat/completions", [dict(turn) for turn in prompt]
        return _Call(path, body, most, paying, started, started + self._config.deadline)

    async def _tried(self, call: _Call) -> Mapping[str, Any]:
        """The choice, after as many attempts as it takes."""
        while True:
            try:
                return await self._attempt(call)
            except _Trouble as trouble:
                last = trouble
            if last.final:
                raise UpstreamError(str(last))
            pause = max(last.retry_after, self._jitter() * min(_BACKOFF[1], _BACKOFF[0] * 2.0**call.attempts))
            call.attempts += 1
            if call.attempts > self._config.retries or self._clock() + pause >= call.deadline:
                raise UpstreamError(
                    f"{self._name} gave no answer in {call.attempts} attempts and "
                    f"{self._clock() - call.started:.0f} s; the last one: {last}"
                )
            await self._sleep(pause)

    async def _attempt(self, call: _Call) -> Mapping[str, Any]:
        """The choice of one request in a slot, settled after it; for the breaker what is final is a sign of life."""
        async with AsyncExitStack() as account, self._slots:
            probe = await self._breaker.admit(call.deadline)
            good: bool | None = None
            wait = 0.0
            try:
                bill = await account.enter_async_context(call.paying(call.most, 0.0, self._config.timeout))
                call.bills.append(bill)
                await self._spread()
                choice = await self._paid(call, bill)
                good = True
                return choice
            except DeadlineError:  # of the budget's database
                raise
            except TimeoutError:
                raise _Trouble("the endpoint is down, and no attempt could be made in time") from None
            except _Trouble as trouble:
                good, wait = trouble.final, trouble.retry_after
                raise
            finally:
                self._breaker.note(probe, good, wait)

    async def _paid(self, call: _Call, bill: Bill) -> Mapping[str, Any]:
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
        connect = min(_CONNECT, seconds / 2)  # before the time of the whole, so that it is known not to be sent
        limits = openai.Timeout(seconds, connect=connect, pool=connect)
        options: openai.RequestOptions = {"timeout": limits, "headers": {"Idempotency-Key": whole.hexdigest()}}
        try:
            async with asyncio.timeout(seconds):
                return await self._client.post(call.path, cast_to=str, content=content, options=options)
        except (TimeoutError, openai.APITimeoutError) as error:
            told, cause = f"no reply within {seconds:.3g} s", error.__cause__
        except openai.APIConnectionError as error:
            told, cause = f"the connection failed ({plain(str(error.__cause__ or error), self._key)})", error.__cause__
        except openai.APIStatusError as error:
            if error.status_code not in _UNSURE:
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
            pause = retry_after(error.response.headers.get("retry-after"), self._wall())
            return _Trouble(f"status {status}" + (f", to be asked again in {pause:.0f} s" if pause else ""), pause)
        if status in (401, 403):
            told = f"the key in {self._config.key_variable} (status {status})"
        else:
            told = f"the request (status {status}): {plain(error.message, self._key)}"
        return _Trouble(f"{self._name} refused {told}", final=True)

    def _read(self, text: str, most: Usage, bill: Bill) -> Mapping[str, Any]:
        """The choice, if it can be read and is not empty; what the reply says it cost goes on the bill first."""
        try:
            reply = json.loads(text)
            told = reply.get("usage")
            bill.cost = self._usage(
                counted(told, "prompt_tokens", most.prompt_tokens),
                counted(told, "completion_tokens", most.completion_tokens),
            )
            choice = dict(encodable(reply["choices"][0]))
            said = text_of(choice)
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
