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
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rayalign.annotator.breaker import Breaker
from rayalign.annotator.completer import ChatMessage, Completion, UpstreamError
from rayalign.annotator.verdicts import Usage
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
_TURN_TOKENS = 16
"""marks and role of a turn, at most"""
Messages = str | Sequence[ChatMessage]
Reply = tuple[Mapping[str, Any], Mapping[str, Any]]
"""the choice, and the usage"""


class _Trouble(Exception):
    """An attempt failed in a way that another may not."""

    def __init__(self, reason: str, retry_after: float = 0.0, usage: Mapping[str, Any] = MappingProxyType({})) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.usage = usage


class OpenAIUpstream:
    """A `Completer` over the `openai` package, for one event loop.

    429, 5xx, time-outs, lost connections, replies that cannot be read and empty ones are retried with exponential
    backoff and full jitter (Brooker, "Exponential Backoff And Jitter", 2015), no sooner than Retry-After says. Other
    4xx fail at once. Every attempt at one request carries the same `Idempotency-Key`, the hash of the request, so that
    an endpoint that knows the header bills it once; equal requests that are to give different samples need a different
    argument, such as `seed`.

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
        self._client = _client(config, self._key)
        self._begun = asyncio.Semaphore(_IN_PROGRESS * config.concurrency)
        self._slots = asyncio.Semaphore(config.concurrency)
        self._breaker = Breaker(clock, sleep)
        self._next = -math.inf

    async def complete(self, prompt: Messages, arguments: Mapping[str, Any]) -> Completion:
        """One reply.

        Args:
            prompt: a dialogue, or a text for /v1/completions.
            arguments: all fields of the request but model and prompt; without a limit to the answer, the config's.

        Raises:
            UpstreamError: refused, or still in trouble at the deadline or after the last retry.
        """
        path, body = self._request(prompt, arguments)
        async with self._begun:
            started = self._clock()
            deadline = started + self._config.deadline
            most, wasted = self.most(prompt, arguments), Usage()
            for attempt in range(self._config.retries + 1):
                try:
                    choice, usage = await self._attempt(path, body, deadline)
                    cost = self._cost(usage, most, wasted)
                    tokens = (cost.prompt_tokens, cost.completion_tokens)
                    return Completion(_text(choice), choice, *tokens, cost.price, self._clock() - started)
                except _Trouble as trouble:
                    last, wasted = trouble, self._cost(trouble.usage, Usage(), wasted)
                longest = min(_BACKOFF[1], _BACKOFF[0] * 2.0**attempt)
                pause = max(last.retry_after, self._jitter() * longest)
                if attempt == self._config.retries or self._clock() + pause >= deadline:
                    break
                await self._sleep(pause)
        raise UpstreamError(
            f"{self._name} gave no answer in {attempt + 1} attempts and {self._clock() - started:.0f} s; "
            f"the last one: {last}"
        )

    def most(self, messages: Messages, arguments: Mapping[str, Any]) -> Usage:
        """What a request can cost at most: a token is at least one byte of the prompt. For `Budget.reserve`."""
        turns = [messages] if isinstance(messages, str) else [text for turn in messages for text in turn.values()]
        extra = len(json.dumps(arguments.get("tools", "")).encode())
        prompt = extra + sum(len(text.encode("utf-8", "replace")) + _TURN_TOKENS for text in turns)
        answer = arguments.get("max_completion_tokens") or arguments.get("max_tokens") or self._config.max_tokens
        return self._usage(prompt, int(answer) * int(arguments.get("n") or 1))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    @property
    def _name(self) -> str:
        return f"{self._config.model} at {self._client.base_url.host}"

    def _request(self, messages: Messages, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        limit = {} if "max_completion_tokens" in arguments else {"max_tokens": self._config.max_tokens}
        body = {**limit, **arguments, "model": self._config.model}
        if isinstance(messages, str):
            return "/completions", {**body, "prompt": messages}
        return "/chat/completions", {**body, "messages": [dict(turn) for turn in messages]}

    async def _attempt(self, path: str, body: dict[str, Any], deadline: float) -> Reply:
        """One request in a slot; for the breaker a refusal counts as a sign of life."""
        async with self._slots:
            probe = await self._breaker.admit(deadline)
            good: bool | None = None
            retry_after = 0.0
            try:
                await self._spread()
                if (left := deadline - self._clock()) <= 0:
                    raise TimeoutError
                reply = _read(await self._send(path, body, min(self._config.timeout, left)))
                good = True
                return reply
            except TimeoutError:
                raise _Trouble("the endpoint is down, and no attempt could be made in time") from None
            except UpstreamError:
                good = True
                raise
            except _Trouble as trouble:
                good, retry_after = False, trouble.retry_after
                raise
            finally:
                self._breaker.note(probe, good, retry_after)

    async def _spread(self) -> None:
        now = self._clock()
        self._next = max(self._next + _GAP, now)
        if self._next > now:
            await self._sleep(self._next - now)

    async def _send(self, path: str, body: dict[str, Any], seconds: float) -> str:
        import openai

        content = json.dumps(body, sort_keys=True).encode()
        whole = hashlib.sha256(f"{self._client.base_url} {path} ".encode() + content)
        headers = {"Idempotency-Key": whole.hexdigest()}
        try:
            async with asyncio.timeout(seconds):
                return await self._client.post(path, cast_to=str, content=content, options={"headers": headers})
        except (TimeoutError, openai.APITimeoutError):
            raise _Trouble(f"no reply within {seconds:.3g} s") from None
        except openai.APIConnectionError as error:
            raise _Trouble(f"the connection failed ({_plain(str(error.__cause__ or error), self._key)})") from None
        except openai.APIStatusError as error:
            raise self._status(error) from None

    def _status(self, error: openai.APIStatusError) -> Exception:
        """Trouble to retry, or the end; the endpoint's words only where no key can be in them."""
        status = error.status_code
        spent = error.code == "insufficient_quota"
        if (status in (408, 429) and not spent) or status >= 500:
            pause = self._retry_after(error.response.headers.get("retry-after"))
            return _Trouble(f"status {status}" + (f", to be asked again in {pause:.0f} s" if pause else ""), pause)
        if status in (401, 403):
            return UpstreamError(f"{self._name} refused the key in {self._config.key_variable} (status {status})")
        return UpstreamError(f"{self._name} refused the request (status {status}): {_plain(error.message, self._key)}")

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

    def _cost(self, usage: Mapping[str, Any], default: Usage, wasted: Usage) -> Usage:
        """Of a reply that says how many tokens it took, or else the default, and of those before it."""
        prompt, answer = usage.get("prompt_tokens"), usage.get("completion_tokens")
        return self._usage(
            wasted.prompt_tokens + (prompt if isinstance(prompt, int) else default.prompt_tokens),
            wasted.completion_tokens + (answer if isinstance(answer, int) else default.completion_tokens),
        )

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


def _client(config: LLMJudgeConfig, key: str) -> openai.AsyncOpenAI:
    import openai

    url = config.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
    if not url.startswith(("http://", "https://")):
        raise InputError(f"judge {config.model}: base_url {url!r} is no address; give one such as http://host:8000/v1")
    return openai.AsyncOpenAI(api_key=key, base_url=url, timeout=config.timeout, max_retries=0)


def _read(text: str) -> Reply:
    """What the endpoint said, if it can be read and is not empty."""
    try:
        reply = json.loads(text)
        choice, usage = dict(reply["choices"][0]), dict(reply.get("usage") or {})
        said = _text(choice)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise _Trouble("a reply that cannot be read") from None
    if said:
        return choice, usage
    if choice.get("finish_reason") in ("length", "content_filter"):
        # Asked again it would be paid for again, and end in the same way.
        raise UpstreamError(f"the answer ended before it said anything (finish_reason {choice['finish_reason']})")
    raise _Trouble("an empty answer", usage=usage)


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
