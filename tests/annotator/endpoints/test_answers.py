"""Answers of a model over HTTP: its settings are used, and what has no text is absent and counted."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from rayalign.annotator.endpoints.answers import AnswerRequest, write_answers
from rayalign.config import Endpoint, SamplingConfig
from rayalign.types import Message, Prompt
from tests.annotator.stub_endpoint import Stub


def answers(stub: Stub, *questions: str, **settings: Any) -> list[str | None]:
    endpoint = Endpoint(model="elsewhere", base_url=stub.url, **settings)
    requests = []
    for number, question in enumerate(questions):
        requests.append(AnswerRequest(Prompt(question, (Message("user", question),)), seed=number))
    return asyncio.run(write_answers(endpoint, requests, SamplingConfig()))


def echo(messages: list[dict[str, str]]) -> str:
    question = messages[-1]["content"]
    return " \n" if question == "blank" else f"on {question}"


def test_an_answer_without_text_is_absent_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    with Stub(says=echo) as stub:
        assert answers(stub, "one", "blank", "three") == ["on one", None, "on three"]
    assert "elsewhere: 1 of 3 answers are absent; an answer without text" in caplog.text


def test_the_key_is_that_of_the_named_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    monkeypatch.setenv("OTHER_KEY", "right")
    with Stub(says=echo, key="right") as stub:
        assert answers(stub, "one", key_variable="OTHER_KEY") == ["on one"]


def test_no_more_requests_are_in_flight_than_the_endpoint_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    with Stub(says=echo, latency=0.1) as stub:
        answers(stub, *map(str, range(6)), concurrency=2)
        assert stub.most_at_once == 2


def test_an_attempt_ends_at_its_timeout_and_the_answer_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    start = time.monotonic()
    with Stub(says=echo, script=["hang"]) as stub:
        assert answers(stub, "one", timeout=0.5, deadline=20.0) == ["on one"]
    with Stub(says=echo, shares={"hang": 1.0}) as stub:
        assert answers(stub, "one", timeout=0.5, deadline=1.0) == [None]
    assert time.monotonic() - start < 40.0
