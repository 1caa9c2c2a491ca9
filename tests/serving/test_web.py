"""The routes over a policy that answers with what reached it, by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from rayalign.annotator.web.access import Access, digest
from rayalign.config import AccessConfig, Profile, load_registry
from rayalign.errors import ActorError, DeadlineError, InputError
from rayalign.rollout.chat import Answer
from rayalign.serving.merged import CacheState
from rayalign.serving.policy import Turns
from rayalign.serving.profiles import Profiles
from rayalign.serving.web import create_app

TOKEN = "a-token-for-tests"
QUESTION: Any = [{"role": "user", "content": "what is the color of ada ?"}]


class Echo:
    """Answers with the profile, the last turn and the settings."""

    def __init__(self) -> None:
        self.hold: asyncio.Event | None = None
        self.closed = 0

    async def complete(self, turns: Turns, settings: Mapping[str, Any], profile: Profile) -> Answer:
        if self.hold is not None:
            await self.hold.wait()
        text = turns[-1]["content"]
        if text == "too long":
            raise InputError("the prompt has 900 tokens, the model's context 512; shorten it")
        if text == "late":
            raise DeadlineError("vLLM gave no answer in 1 s; send fewer requests at once")
        return Answer(json.dumps([str(profile), text, dict(settings)]), "stop", (), 7, 3)

    async def stream(
        self, turns: Turns, settings: Mapping[str, Any], profile: Profile
    ) -> AsyncGenerator[str | Answer, None]:
        try:
            answer = await self.complete(turns, settings, profile)
            for start in range(0, len(answer.text), 5):
                yield answer.text[start : start + 5]
                if turns[-1]["content"] == "broken":
                    raise ActorError("vLLM failed")
            yield answer
        finally:
            self.closed += 1

    async def state(self) -> CacheState:
        return CacheState(adapters=1, limit=2, merges=3, evictions=2)


def app(policy: Echo, queue: int = 8) -> FastAPI:
    profiles = Profiles(load_registry(), ["P1A", "P1B", "P2B"])
    access = Access(AccessConfig(), {digest(TOKEN): "tests"})
    return create_app(policy, profiles, access, queue=queue, max_body=10_000)


def ask(work: Callable[[openai.AsyncOpenAI, Echo], Awaitable[Any]], queue: int = 8, token: str = TOKEN) -> Any:
    """Run some work with a client of a fresh application."""

    async def run() -> Any:
        policy = Echo()
        transport = httpx.ASGITransport(app(policy, queue))
        async with httpx.AsyncClient(transport=transport) as http:
            client = openai.AsyncOpenAI(base_url="http://127.0.0.1/v1", api_key=token, max_retries=0, http_client=http)
            return await asyncio.wait_for(work(client, policy), 20.0)

    return asyncio.run(run())


def completed(model: str = "base", messages: Any = QUESTION, **fields: Any) -> Any:
    async def work(client: openai.AsyncOpenAI, _: Echo) -> Any:
        return await client.chat.completions.create(model=model, messages=messages, **fields)

    return ask(work)


def test_a_request_reaches_the_policy_with_its_profile_and_settings() -> None:
    reply = completed(
        extra_body={"weights": {"P2B": 0.3, "P1A": 0.5}, "top_k": 4}, temperature=0, max_completion_tokens=9, seed=5
    )
    profile, text, settings = json.loads(reply.choices[0].message.content)
    assert (profile, text) == ("P1A*0.5+P2B*0.3", QUESTION[0]["content"])
    assert settings == {"temperature": 0.0, "top_k": 4, "seed": 5, "max_tokens": 9}
    assert reply.model == "P1A*0.5+P2B*0.3" and reply.choices[0].finish_reason == "stop"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (7, 3, 10)


def test_the_base_and_a_named_profile_are_models() -> None:
    assert completed().model == "base"
    assert completed("P1A+P2B").model == "P1A*0.5+P2B*0.5"


def test_a_stream_has_the_same_text_in_pieces() -> None:
    async def work(client: openai.AsyncOpenAI, policy: Echo) -> tuple[list[Any], int]:
        options: Any = {"include_usage": True}
        stream = await client.chat.completions.create(
            model="P1A", messages=QUESTION, stream=True, stream_options=options
        )
        return [chunk async for chunk in stream], policy.closed

    chunks, closed = ask(work)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert json.loads(text) == ["P1A", QUESTION[0]["content"], {}]
    assert len(chunks) > 5 and chunks[-1].usage.total_tokens == 10 and closed == 1
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]


def test_a_stream_that_fails_midway_says_so() -> None:
    async def work(client: openai.AsyncOpenAI, _: Echo) -> None:
        messages: Any = [{"role": "user", "content": "broken"}]
        stream = await client.chat.completions.create(model="base", messages=messages, stream=True)
        async for _chunk in stream:
            pass

    with pytest.raises(openai.APIError, match="vLLM failed"):
        ask(work)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"model": "gpt-4"}, 404, "there is no model 'gpt-4'"),
        ({"model": "P1A+P1B"}, 400, "two poles of expertise"),
        ({"extra_body": {"weights": {"P1A": 0.5, "P1B": 0.5}}}, 400, "two poles of expertise"),
        ({"extra_body": {"weights": {"P7": 1}}}, 400, "there is no preference 'P7'"),
        ({"extra_body": {"weights": {"P1A": 0}}}, 400, "all are zero"),
        ({"extra_body": {"weights": {"P1A": "much"}}}, 400, "weights.P1A: Input should be a valid number"),
        ({"extra_body": {"weights": [1, 2]}}, 400, "weights: Input should be a valid dictionary"),
        ({"extra_body": {"wieghts": {"P1A": 1}}}, 400, "there is no field `wieghts`; did you mean weights?"),
        ({"n": 2}, 400, "`n` is not supported"),
        ({"logprobs": True}, 400, "`logprobs` is not supported"),
        ({"temperature": -1}, 400, "temperature"),
        ({"stop": [""]}, 400, "stop"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "too long"}]}, 400, "900 tokens"),
        ({"messages": [{"role": "user", "content": "late"}]}, 503, "no answer in 1 s"),
    ],
)
def test_a_request_that_is_wrong_is_one_sentence_with_its_status(
    fields: dict[str, Any], status: int, message: str, stream: bool
) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        completed(**{**fields, "stream": stream})
    assert raised.value.status_code == status
    error: Any = raised.value.body
    assert message in error["message"] and "\n" not in error["message"]


def test_a_weight_that_is_no_number_of_json_is_refused() -> None:
    async def work(client: openai.AsyncOpenAI, _: Echo) -> httpx.Response:
        body = '{"model": "base", "messages": [{"role": "user", "content": "a"}], "weights": {"P1A": NaN}}'
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        return await client._client.post("http://127.0.0.1/v1/chat/completions", content=body, headers=headers)

    reply = ask(work)
    assert reply.status_code == 400 and "weights.P1A: Input should be a finite number" in reply.text


def test_the_models_are_listed_and_the_state_is_there() -> None:
    async def work(client: openai.AsyncOpenAI, _: Echo) -> tuple[list[str], list[Any]]:
        names = [model.id async for model in client.models.list()]
        headers = {"Authorization": f"Bearer {TOKEN}"}
        paths = ("/healthz", "/readyz", "/v1/merged")
        replies = [await client._client.get(f"http://127.0.0.1{path}", headers=headers) for path in paths]
        return names, [reply.json() for reply in replies]

    names, replies = ask(work)
    assert names == ["base", "P1A", "P1B", "P2B", "P1A+P2B", "P1B+P2B"]
    merged = {"adapters": 1, "limit": 2, "merges": 3, "evictions": 2}
    assert replies == [{"status": "ok"}, {"status": "ready"}, merged]


def test_a_token_is_needed() -> None:
    async def work(client: openai.AsyncOpenAI, _: Echo) -> None:
        await client.models.list()

    with pytest.raises(openai.AuthenticationError):
        ask(work, token="wrong-token")


def test_more_than_the_queue_holds_is_429() -> None:
    async def work(client: openai.AsyncOpenAI, policy: Echo) -> None:
        policy.hold = asyncio.Event()
        waiting = [
            asyncio.create_task(client.chat.completions.create(model="base", messages=QUESTION)) for _ in range(2)
        ]
        await asyncio.sleep(0.05)
        with pytest.raises(openai.RateLimitError) as raised:
            await client.chat.completions.create(model="base", messages=QUESTION)
        assert int(raised.value.response.headers["Retry-After"]) >= 1
        policy.hold.set()
        await asyncio.gather(*waiting)

    ask(work, queue=2)
