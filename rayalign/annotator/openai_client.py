"""A language model behind any OpenAI-compatible endpoint, through the `openai` package.

The package's own retries are off, since every attempt is reserved in the budget and settled by its own bill, waits for
the circuit breaker and leaves its slot to others between attempts.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rayalign.annotator.attempts import AttemptError, Call, Messages
from rayalign.annotator.breaker import Breaker
from rayalign.annotator.budget import BusyError
from rayalign.annotator.completer import Completion, CompletionError, bound, limited
from rayalign.annotator.replies import counted, encodable, plain, refusal_in, retry_after, text_of
from rayalign.annotator.verdicts import Bill, Paying, Usage
from rayalign.config.annotators import EndpointConfig
from rayalign.errors import DeadlineError, InputError, RayalignError

if TYPE_CHECKING:
    import openai

_BACKOFF = (0.25, 20.0)
"""longest pause before the first retry, and before any [s]"""
_BUSY = (0.01, 1.0)
"""longest pause, at first and at most, before a request that waits for the budget is tried again [s]"""
_IN_PROGRESS = 4
"""calls in progress for each slot: a call between two attempts leaves its slot to others"""
_GAP = 0.001
"""seconds between two sends: replies to requests sent together arrive together, and queue for this process"""
_CONNECT = 10.0
"""longest time to connect [s]"""
_UNSENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")
"""names of errors before a request was sent; the names alone, since openai chooses the HTTP client"""
_UNSURE = frozenset({408, 504, *range(520, 530)})
"""statuses of gateways: the endpoint behind them may have answered and billed the request"""


class OpenAICompleter:
    """A `Completer` for one event loop.

    It retries 429, 5xx, time-outs, lost connections, unreadable and empty replies with exponential backoff and full
    jitter (Brooker, "Exponential Backoff And Jitter", 2015), and never before the time of Retry-After. Other 4xx
    fail at once. A refusal costs nothing. A request without a readable answer costs the most that it can; so does
    one that a gateway reports as late (408, 504, 520 to 529).
    All attempts of one request carry the same `Idempotency-Key`, the hash of the request, so that an endpoint that
    knows the header bills it once. Equal requests for different samples need a different argument, such as `seed`.

    Args:
        config: `timeout` bounds an attempt; `deadline` and `retries` bound a call from its beginning.
        clock: seconds, monotonic.
        wall: unix seconds, for dates in Retry-After.
        jitter: uniform in [0, 1).

    Raises:
        InputError: the key's environment variable is empty, or the URL is not one.
    """

    def __init__(
        self,
        config: EndpointConfig,
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
            arguments: all fields but model and prompt; None: not sent. Without a limit for the answer, the config's.
            paying: around every attempt.

        Raises:
            CompletionError: refused; failed at the deadline or after the last retry; or no budget for an attempt.
        """
        call: Call | None = None
        longest = _BUSY[0]
        while True:
            async with self._begun:
                call = call or self._call(prompt, arguments, paying)
                try:
                    choice = await self._retried(call)
                    usage = replace(call.cost, seconds=self._clock() - call.started)
                    return Completion(text_of(choice), choice, usage)
                except RayalignError as caught:
                    error = CompletionError(str(caught), call.cost)
                    may_retry = isinstance(caught, BusyError)
            # Outside the semaphore: a call that waits for the budget of one client does not hold up the others.
            pause = self._jitter() * longest
            longest = min(2 * longest, _BUSY[1])
            if not may_retry or self._clock() + pause >= call.deadline:
                raise error
            await self._sleep(pause)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    @property
    def _name(self) -> str:
        return f"{self._config.model} at {self._client.base_url.host}"

    def _call(self, prompt: Messages, arguments: Mapping[str, Any], paying: Paying) -> Call:
        fields = {**limited(arguments, self._config.max_tokens), "model": self._config.model}
        body = {name: value for name, value in fields.items() if value is not None}
        most = self._usage(*bound(prompt, body))
        started = self._clock()
        if isinstance(prompt, str):
            path, body["prompt"] = "/completions", prompt
        else:
            path, body["messages"] = "/chat/completions", [dict(turn) for turn in prompt]
        return Call(path, body, most, paying, started, started + self._config.deadline)

    async def _retried(self, call: Call) -> Mapping[str, Any]:
        """The choice, after as many attempts as it takes."""
        while True:
            try:
                return await self._attempt(call)
            except AttemptError as error:
                last = error
            if last.final:
                raise CompletionError(str(last))
            backoff = min(_BACKOFF[1], _BACKOFF[0] * 2.0**call.attempts)
            pause = max(last.retry_after, self._jitter() * backoff)
            call.attempts += 1
            if call.attempts > self._config.retries or self._clock() + pause >= call.deadline:
                raise CompletionError(
                    f"{self._name} gave no answer in {call.attempts} attempts and "
                    f"{self._clock() - call.started:.0f} s; the last one: {last}"
                )
            await self._sleep(pause)

    async def _attempt(self, call: Call) -> Mapping[str, Any]:
        """The choice of one attempt in a slot, its bill settled; a final refusal shows the breaker a live endpoint."""
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
                raise AttemptError("the endpoint is down, and no attempt could be made in time") from None
            except AttemptError as error:
                good, wait = error.final, error.retry_after
                raise
            finally:
                self._breaker.note(probe, good, wait)

    async def _paid(self, call: Call, bill: Bill) -> Mapping[str, Any]:
        start = self._clock()
        left = call.deadline - start
        if left <= 0:
            raise TimeoutError
        bill.cost = call.most  # from here on it may be billed, whatever the reply
        text = await self._send(call, min(self._config.timeout, left), bill)
        choice = self._read(text, call.most, bill)
        bill.cost = replace(bill.cost, seconds=self._clock() - start)
        return choice

    async def _spread(self) -> None:
        now = self._clock()
        self._next = max(self._next + _GAP, now)
        if self._next > now:
            await self._sleep(self._next - now)

    async def _send(self, call: Call, seconds: float, bill: Bill) -> str:
        import openai

        content = json.dumps(call.body, sort_keys=True).encode()
        identity = hashlib.sha256(f"{self._client.base_url} {call.path} ".encode() + content)
        connect = min(_CONNECT, seconds / 2)  # before the time of the whole, so that it is known not to be sent
        limits = openai.Timeout(seconds, connect=connect, pool=connect)
        options: openai.RequestOptions = {"timeout": limits, "headers": {"Idempotency-Key": identity.hexdigest()}}
        try:
            async with asyncio.timeout(seconds):
                return await self._client.post(call.path, cast_to=str, content=content, options=options)
        except (TimeoutError, openai.APITimeoutError) as error:
            cause = error.__cause__
            reason = f"no reply within {seconds:.3g} s"
        except openai.APIConnectionError as error:
            cause = error.__cause__
            reason = f"the connection failed ({plain(str(cause or error), self._key)})"
        except openai.APIStatusError as error:
            if error.status_code not in _UNSURE:
                bill.cost = Usage()
            raise self._status(error) from None
        if type(cause).__name__ in _UNSENT:
            bill.cost = Usage()
        raise AttemptError(reason)

    def _status(self, error: openai.APIStatusError) -> AttemptError:
        """A failure to retry, or a final one; it quotes the endpoint only where no key can be in the text."""
        status = error.status_code
        spent = error.code == "insufficient_quota"
        if (status in (408, 429) and not spent) or status >= 500:
            pause = retry_after(error.response.headers.get("retry-after"), self._wall())
            remark = f", to be asked again in {pause:.0f} s" if pause else ""
            return AttemptError(f"status {status}{remark}", pause)
        if status in (401, 403):
            refusal = f"the key in {self._config.key_variable} (status {status})"
        else:
            refusal = f"the request (status {status}): {plain(error.message, self._key)}"
        return AttemptError(f"{self._name} refused {refusal}", final=True)

    def _read(self, text: str, most: Usage, bill: Bill) -> Mapping[str, Any]:
        """The choice, if it is readable and not empty; the reply's own count of tokens goes on the bill first."""
        try:
            reply = json.loads(text)
            refusal = refusal_in(reply)
            if refusal is not None:
                bill.cost = Usage()
                raise AttemptError(f"an error in the place of an answer: {plain(refusal, self._key)}")
            usage = reply.get("usage")
            bill.cost = self._usage(
                counted(usage, "prompt_tokens", most.prompt_tokens),
                counted(usage, "completion_tokens", most.completion_tokens),
            )
            choice = dict(encodable(reply["choices"][0]))
            answer = text_of(choice)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise AttemptError("a reply that cannot be read") from None
        reason = choice.get("finish_reason")
        if not answer and reason in ("length", "content_filter"):
            # A retry would be paid for again, and end in the same way.
            raise AttemptError(f"the answer ended before it said anything (finish_reason {reason})", final=True)
        if not answer:
            raise AttemptError("an empty answer")
        return choice

    def _usage(self, prompt: int, answer: int) -> Usage:
        config = self._config
        price = prompt * config.price_per_prompt_token + answer * config.price_per_completion_token
        return Usage(prompt, answer, price)


def _key(config: EndpointConfig) -> str:
    key = os.environ.get(config.key_variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise InputError(
            f"judge {config.model}: the environment variable {config.key_variable} holds no key; set it (an endpoint "
            "that asks for none takes any word), or name another in `key_variable`"
        )
    return key


def _client(config: EndpointConfig, key: str, url: str) -> openai.AsyncOpenAI:
    import openai

    if not url.startswith(("http://", "https://")):
        raise InputError(f"judge {config.model}: base_url {url!r} is no address; give one such as http://host:8000/v1")
    return openai.AsyncOpenAI(api_key=key, base_url=url, timeout=config.timeout, max_retries=0)
