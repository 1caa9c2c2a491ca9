"""An OpenAI-compatible endpoint with faults on demand, that counts what it was asked and what it billed.

In a thread: `with Stub(latency=0.1, shares={"429": 0.05}) as stub: ... stub.url, stub.report()`. As a process:
`python -m tests.annotator.stub_endpoint '{"latency": 0.1}'`, which writes its URL and serves `GET /report`.

Faults: `429` and any other status by its number; `hang` (does the work and never answers), `broken` (does the work,
and the reply is no whole JSON), `empty` (an answer without text, not billed), `reset` (the connection is reset), `cut`
(does the work, and the body is shorter than announced), `length` (does the work, all of it thought, and is cut off).
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiohttp import web

ANSWERS = re.compile(
    r"(?s).*Output \(a\)\W*\n(?P<a1>.*?)\n\W*Output \(b\)\W*\n(?P<a2>.*?)(\n#.*|\Z)"
    r'|.*?"(m|model_1)",.*?"""\s*(?P<m1>.*?)\s*""".*?"(M|model_2)",.*?"""\s*(?P<m2>.*?)\s*""".*'
)


def prefers_longer(prompt: str) -> bool:
    """Whether the first answer of a pair prompt in one of alpaca_eval's forms is the longer one."""
    found = ANSWERS.match(prompt)
    if found is None:
        return True
    first, second = (found["a1"], found["a2"]) if found["a1"] is not None else (found["m1"], found["m2"])
    return len(first) >= len(second)


def grades_by_length(prompt: str) -> str | None:
    """Of each answer of a ballot its words, at most 5, on four criteria; none of one that is `unreadable`."""
    lines = []
    for number, answer in re.findall(r'(?s)Answer (\d+):\n\n"""(.*?)"""', prompt):
        if answer != "unreadable":
            lines.append(f"{number}: " + ", ".join([str(min(5, len(answer.split())))] * 4))
    return "\n".join(lines) or None


class Stub:
    """The endpoint; it grades ballots by the length of their answers.

    Args:
        latency: seconds until any reply but a reset.
        shares: fault -> share of requests, drawn with `seed`.
        script: faults of the first requests, one after the other; None is a good one.
        prefers: prompt -> whether the first answer is better; gives "Output (a)", a ranking or log-probs as asked.
        says: messages -> the answer's text, in the place of what `prefers` gives.
        retry_after: of every 429.
        honours_keys: work done for an Idempotency-Key is given again in place of being done, and billed, again.
        key: the only one accepted; None: any.
    """

    def __init__(
        self,
        *,
        latency: float = 0.0,
        shares: Mapping[str, float] | None = None,
        script: Iterable[str | None] = (),
        prefers: Callable[[str], bool] = prefers_longer,
        says: Callable[[list[dict[str, str]]], str] | None = None,
        retry_after: str = "0.2",
        honours_keys: bool = True,
        key: str | None = None,
        seed: int = 0,
    ) -> None:
        self.script = list(script)
        self.bodies: list[dict[str, Any]] = []
        """the good requests, as sent"""
        self.keys: list[str] = []
        """the Idempotency-Key of every request"""
        self.faults: Counter[str] = Counter()
        self.billed: Counter[str] = Counter()
        """request body -> how often work was done for it"""
        self.served: Counter[str] = Counter()
        """Idempotency-Key -> how often a whole, good reply was sent"""
        self.most_at_once = self._at_once = 0
        self._latency, self._shares, self._prefers = latency, dict(shares or {}), prefers
        self._says = says
        self._retry_after, self._honours, self._key = retry_after, honours_keys, key
        self._rng = random.Random(seed)
        self._done: set[str] = set()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)

    @property
    def url(self) -> str:
        """For `base_url`."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    def report(self) -> dict[str, Any]:
        """Counts; `double_billed` and `resent` (asked again after a good reply) should be 0."""
        return {
            "requests": len(self.keys),
            "faults": dict(self.faults),
            "served": len(self.served),
            "resent": sum(n - 1 for n in self.served.values()),
            "billed": self.billed.total(),
            "double_billed": sum(n - 1 for n in self.billed.values()),
        }

    def __enter__(self) -> Stub:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self.serve()), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10.0)
        self.close()

    def close(self) -> None:
        """Refuse connections from now on."""
        self._socket.close()

    async def serve(self) -> None:
        """Until stopped; the socket takes connections from construction on."""
        self._stop = asyncio.Event()
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/v1/completions", self._answer)
        app.router.add_get("/report", self._counts)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.SockSite(runner, self._socket).start()
        await self._stop.wait()
        await runner.cleanup()

    async def _counts(self, _: web.Request) -> web.Response:
        return web.json_response(self.report())

    def _fault(self) -> str | None:
        if self.script:
            return self.script.pop(0)
        drawn = self._rng.random()
        for name, share in self._shares.items():
            if drawn < share:
                return name
            drawn -= share
        return None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._handle(request)
        finally:
            self._at_once -= 1

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        text, key = await request.text(), request.headers.get("Idempotency-Key", "")
        self.keys.append(key)
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self._key is not None and given != self._key:
            return _error(401, f"Incorrect API key provided: {given}.")
        fault = self._fault()
        if fault is not None:
            self.faults[fault] += 1
        if fault == "reset":
            assert request.transport is not None
            raw = request.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.transport.abort()
            return web.Response()
        if fault in ("hang", "broken", "cut", "length", None):
            self._bill(text, key)
        await asyncio.sleep(3600.0 if fault == "hang" else self._latency)
        if fault is not None and fault.isdigit():
            headers = {"Retry-After": self._retry_after} if fault == "429" else {}
            return _error(int(fault), "rate limit" if fault == "429" else "trouble, with " + given, headers)
        made = self._reply(json.loads(text), empty=fault in ("empty", "length"))
        if fault == "length":
            made["choices"][0]["finish_reason"] = "length"
            made["usage"]["completion_tokens"] = json.loads(text)["max_tokens"]
        reply = json.dumps(made)
        if fault == "cut":
            return await _cut(request, reply)
        if fault is None:
            self.bodies.append(json.loads(text))
            self.served[key] += 1
        return web.Response(
            text=reply[: len(reply) // 2] if fault == "broken" else reply, content_type="application/json"
        )

    def _bill(self, text: str, key: str) -> None:
        if not (self._honours and key in self._done):
            self._done.add(key)
            self.billed[text] += 1

    def _reply(self, body: dict[str, Any], *, empty: bool) -> dict[str, Any]:
        legacy = "prompt" in body
        prompt = body["prompt"] if legacy else "\n\n".join(m["content"] for m in body["messages"])
        first = self._prefers(prompt)
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        content = grades_by_length(prompt) or f"Output ({'a' if first else 'b'})"
        if body.get("logprobs") and not legacy:
            content, choice["logprobs"] = _token(first)
        elif "model_1" in prompt:
            best, other = ("model_1", "model_2") if first else ("model_2", "model_1")
            content = str([{"model": best, "rank": 1}, {"model": other, "rank": 2}])
        if self._says is not None:
            content = self._says(body["messages"])
        content = "" if empty else content
        choice |= {"text": content} if legacy else {"message": {"role": "assistant", "content": content}}
        if "tools" in body and not empty:
            best, other = ("m", "M") if first else ("M", "m")
            ranks = {"ordered_models": [{"model": best, "rank": 1}, {"model": other, "rank": 2}]}
            function = {"name": body["tools"][0]["function"]["name"], "arguments": json.dumps(ranks)}
            call = {"id": "call", "type": "function", "function": function}
            choice["message"] = {"role": "assistant", "content": None, "tool_calls": [call]}
        tokens = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(content.split())}
        return {
            "id": "stub",
            "object": "text_completion" if legacy else "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
            "usage": {**tokens, "total_tokens": sum(tokens.values())},
        }


def _token(first: bool) -> tuple[str, dict[str, Any]]:
    """One token, m or M, with the log-probs of 0.9 and 0.1."""
    best, other = ("m", "M") if first else ("M", "m")
    top = [{"token": best, "logprob": -0.105361, "bytes": None}, {"token": other, "logprob": -2.302585, "bytes": None}]
    return best, {"content": [{**top[0], "top_logprobs": top}], "refusal": None}


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    error = {"message": message, "type": "stub", "code": None, "param": None}
    return web.json_response({"error": error}, status=status, headers=headers)


async def _cut(request: web.Request, reply: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(reply)), "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(reply[: len(reply) // 2].encode())
    assert request.transport is not None
    request.transport.abort()
    return response


if __name__ == "__main__":
    stub = Stub(**json.loads(sys.argv[1]))
    sys.stdout.write(f"{stub.url}\n")
    sys.stdout.flush()
    asyncio.run(stub.serve())
