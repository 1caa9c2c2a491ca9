from __future__ import annotations

import asyncio
import json
import pickle
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from email.utils import formatdate
from typing import Any

import pytest

from rayalign.annotator.budget import BusyError
from rayalign.annotator.completer import Completion, CompletionError, bound
from rayalign.annotator.openai_client import OpenAICompleter
from rayalign.annotator.replies import retry_after
from rayalign.annotator.verdicts import Bill, Usage
from rayalign.config.annotators import LLMJudgeConfig
from rayalign.errors import InputError
from tests.annotator.fakes import Ledger
from tests.annotator.stub_endpoint import Stub

KEY = "sk-very-secret-0123456789"
PAIR = [
    {"role": "system", "content": "Compare."},
    {"role": "user", "content": "# Output (a)\nshort\n\n# Output (b)\nmuch longer\n\n# Which is best?"},
]
ARGUMENTS = {"max_tokens": 10, "temperature": 0.0}


class Time:
    """A clock that jumps to where the next sleeper wakes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self._ends: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        self.slept.append(seconds)
        self._ends.append(end)
        while self.now < end:
            await asyncio.sleep(0.002)
            if end == min(self._ends):
                self.now = end
        self._ends.remove(end)


@pytest.fixture(autouse=True)
def key_in_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("STUB_KEY", KEY)
    yield


def configured(stub: Stub, **fields: Any) -> LLMJudgeConfig:
    prices = {"price_per_prompt_token": 0.01, "price_per_completion_token": 0.1}
    return LLMJudgeConfig(
        kind="llm", model="judge", base_url=stub.url, key_variable="STUB_KEY", **{"timeout": 20.0, **prices, **fields}
    )


def ask(
    config: LLMJudgeConfig,
    prompts: list[Any],
    arguments: dict[str, Any] | None = None,
    ledger: Ledger | Short | None = None,
) -> tuple[list[Completion | BaseException], Time]:
    """All prompts at once, over a clock that sleeping moves, at half of the jitter."""
    time, paying = Time(), (ledger or Ledger()).paying

    async def run() -> list[Completion | BaseException]:
        upstream = OpenAICompleter(config, clock=time.clock, wall=lambda: 1e9, sleep=time.sleep, jitter=lambda: 0.5)
        calls = (upstream.complete(prompt, arguments or ARGUMENTS, paying) for prompt in prompts)
        try:
            return await asyncio.gather(*calls, return_exceptions=True)
        finally:
            await upstream.close()

    return asyncio.run(run()), time


def good(answers: list[Completion | BaseException]) -> list[Completion]:
    assert all(isinstance(a, Completion) for a in answers), answers
    return [a for a in answers if isinstance(a, Completion)]


def test_a_reply_with_its_cost_and_the_request_as_given() -> None:
    with Stub(key=KEY) as stub:
        (reply,) = good(ask(configured(stub), [PAIR], {**ARGUMENTS, "logit_bias": {"5": 1}})[0])
    assert stub.bodies == [{**ARGUMENTS, "logit_bias": {"5": 1}, "model": "judge", "messages": PAIR}]
    assert (reply.text, reply.usage.prompt_tokens, reply.usage.completion_tokens) == ("Output (b)", 14, 2)
    assert reply.usage.price == pytest.approx(14 * 0.01 + 2 * 0.1)
    assert reply.choice["message"]["content"] == "Output (b)"


def test_a_text_asks_the_legacy_route_and_logprobs_come_whole() -> None:
    with Stub() as stub:
        (legacy,) = good(ask(configured(stub), [PAIR[1]["content"]])[0])
        (scored,) = good(ask(configured(stub), [PAIR], {"logprobs": True, "top_logprobs": 5})[0])
    assert stub.bodies[0]["prompt"] == PAIR[1]["content"]
    assert legacy.text == legacy.choice["text"] == "Output (b)"
    assert scored.text == "M"
    assert [t["token"] for t in scored.choice["logprobs"]["content"][0]["top_logprobs"]] == ["M", "m"]
    assert stub.bodies[1]["max_tokens"] == 100  # the config's, since the request named none


class Odd(Stub):
    """Says `odd` in the place of parts of its replies."""

    odd: Mapping[str, Any] = {}

    def _reply(self, body: dict[str, Any], *, empty: bool) -> dict[str, Any]:
        made = super()._reply(body, empty=empty)
        made["choices"][0] |= self.odd.get("choice", {})
        if "instead" in self.odd:
            return dict(self.odd["instead"])
        return {**made, "usage": self.odd.get("usage")}


@pytest.mark.parametrize(
    ("told", "prompt_tokens"),
    [(14, 14), (-5, 86), (10**30, 86), (True, 86), (1.5, 86), ("x", 86), (None, 86)],
)
def test_what_is_no_number_of_tokens_counts_as_the_most(told: Any, prompt_tokens: int) -> None:
    with Odd() as stub:
        stub.odd = {"usage": {"prompt_tokens": told, "completion_tokens": 2}}
        (reply,) = good(ask(configured(stub), [PAIR])[0])
        stub.odd = {"usage": told}
        (bare,) = good(ask(configured(stub), [PAIR])[0])
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (prompt_tokens, 2)
    assert (bare.usage.prompt_tokens, bare.usage.completion_tokens) == (86, 10)


def test_a_reply_is_made_whole_so_that_it_can_be_told_on() -> None:
    nest: dict[str, Any] = {}
    for _ in range(300):
        nest = {"in": nest}
    with Odd() as stub:
        stub.odd = {"choice": {"message": {"content": "half an emoji: \ud83d"}, "\udc00": 1}}
        (reply,) = good(ask(configured(stub), [PAIR])[0])
        stub.odd = {"choice": {"logprobs": nest}}
        (deep,) = ask(configured(stub, retries=0), [PAIR])[0]
    assert reply.text == reply.choice["message"]["content"] == "half an emoji: ?" and reply.choice["?"] == 1
    assert isinstance(deep, CompletionError) and "cannot be read" in str(deep)


def test_content_in_parts_is_its_texts() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    with Odd() as stub:
        stub.odd = {"choice": {"message": {"content": [thought, {"type": "text", "text": "Output (a)"}]}}}
        (reply,) = good(ask(configured(stub), [PAIR])[0])
    assert reply.text == "Output (a)" and len(stub.bodies) == 1


@pytest.mark.parametrize("error", [{"message": "the model is overloaded", "code": 502}, "the model is overloaded"])
def test_an_error_with_status_200_is_tried_again_named_and_free(error: Any) -> None:
    with Odd() as stub:
        stub.odd = {"instead": {"error": error}}
        (refusal,) = ask(configured(stub, retries=2), [PAIR])[0]
    assert isinstance(refusal, CompletionError) and "the model is overloaded" in str(refusal)
    assert len(stub.bodies) > 1 and refusal.usage.prompt_tokens == 0


@pytest.mark.parametrize("header", ["\u00b2", "9" * 400, "soon", "Wed, 99 Foo 20262 99:99:99 GMT", ""])
def test_a_header_may_hold_any_nonsense(header: str) -> None:
    assert retry_after(header, 0.0) >= 0.0


def test_the_text_of_a_tool_call_is_its_arguments() -> None:
    with Stub() as stub:
        tool = {"type": "function", "function": {"name": "rank", "parameters": {}}}
        (reply,) = good(ask(configured(stub), [PAIR], {"tools": [tool]})[0])
    assert json.loads(reply.text)["ordered_models"][0] == {"model": "M", "rank": 1}
    assert reply.choice["message"]["content"] is None


@pytest.mark.parametrize("fault", ["500", "503", "broken", "empty", "reset", "cut", "408"])
def test_trouble_is_retried_with_growing_pauses_under_one_key(fault: str) -> None:
    with Stub(script=[fault, fault, fault]) as stub:
        answers, time = ask(configured(stub), [PAIR])
    (reply,) = good(answers)
    assert reply.text == "Output (b)"
    assert time.slept == [0.125, 0.25, 0.5]
    assert reply.usage.seconds == pytest.approx(0.875)
    assert len(stub.keys) == 4
    assert len(set(stub.keys)) == 1
    assert stub.report()["double_billed"] == stub.report()["resent"] == 0


# what PAIR costs at the stub, what it can cost at most, and nothing
COST, MOST, NONE = (14, 2), (86, 10), (0, 0)


def tokens(ledger: Ledger) -> list[tuple[int, int]]:
    return [(bill.cost.prompt_tokens, bill.cost.completion_tokens) for bill in ledger.bills]


@pytest.mark.parametrize(
    ("fault", "cost"),
    [
        ("empty", (14, 0)), ("broken", MOST), ("reset", MOST), ("cut", MOST), ("429", NONE), ("500", NONE),
        ("408", MOST), ("504", MOST), ("520", MOST), ("529", MOST),
    ],
)  # fmt: skip
def test_every_attempt_is_paid_for_unless_it_was_refused(fault: str, cost: tuple[int, int]) -> None:
    ledger = Ledger()
    with Stub(script=[fault]) as stub:
        (reply,) = good(ask(configured(stub), [PAIR], ledger=ledger)[0])
    assert tokens(ledger) == [cost, COST]
    assert [(most.prompt_tokens, most.completion_tokens) for most in ledger.most] == [MOST, MOST]
    assert ledger.most[0].price == pytest.approx(86 * 0.01 + 10 * 0.1)
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (cost[0] + 14, cost[1] + 2)
    assert reply.usage.price == pytest.approx(ledger.cost.price)


def test_what_failed_in_the_end_is_paid_for_too() -> None:
    ledger = Ledger()
    with Stub(script=["length"]) as stub:
        answers, _ = ask(configured(stub), [PAIR], ledger=ledger)
        assert len(stub.keys) == 1
    (error,) = answers
    assert isinstance(error, CompletionError) and "finish_reason length" in str(error)
    assert tokens(ledger) == [(14, 10)] and error.usage == ledger.cost
    ledger = Ledger()
    with Stub(script=["empty"] * 3) as stub:
        answers, _ = ask(configured(stub, retries=2), [PAIR], ledger=ledger)
    (error,) = answers
    assert isinstance(error, CompletionError) and "an empty answer" in str(error)
    assert tokens(ledger) == [(14, 0)] * 3 and error.usage == ledger.cost
    assert pickle.loads(pickle.dumps(error)).usage == error.usage


def test_an_attempt_without_budget_is_not_made() -> None:
    ledger = Ledger(attempts=2)
    with Stub(script=["empty"] * 3) as stub:
        answers, _ = ask(configured(stub), [PAIR], ledger=ledger)
        assert len(stub.keys) == 2
    (error,) = answers
    assert isinstance(error, CompletionError) and str(error) == "the budget is spent"
    assert (error.usage.prompt_tokens, error.usage.completion_tokens) == (28, 0)


def test_an_endpoint_that_is_not_there_costs_nothing() -> None:
    stub, ledger = Stub(), Ledger()
    config = configured(stub, retries=1)
    stub.close()
    answers, _ = ask(config, [PAIR], ledger=ledger)
    assert isinstance(answers[0], CompletionError) and "the connection failed" in str(answers[0])
    assert tokens(ledger) == [NONE, NONE]


def test_an_endpoint_that_lets_nobody_connect_costs_nothing() -> None:
    ledger = Ledger()
    with ExitStack() as held:
        full = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # nobody accepts, and what does not fit into the queue is dropped
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        config = LLMJudgeConfig(
            kind="llm", model="judge", base_url=url, key_variable="STUB_KEY", timeout=0.4, retries=1
        )
        answers, _ = ask(config, [PAIR], ledger=ledger)
    assert isinstance(answers[0], CompletionError) and "no reply" in str(answers[0])
    assert NONE in tokens(ledger), "a stall in which all of an attempt's time is over hides what became of it"


class Short:
    """Has no budget for the first so many requests until others have ended."""

    def __init__(self, count: int) -> None:
        self.left = count

    @asynccontextmanager
    async def paying(self, most: Usage, wait: float, lease: float) -> AsyncIterator[Bill]:
        assert wait == 0.0, "it would be waited for in the slot"
        if self.left:
            self.left -= 1
            raise BusyError("requests in flight hold it back")
        yield Bill()


def test_waiting_for_the_budget_is_no_attempt_and_ends_with_the_deadline() -> None:
    with Stub() as stub:
        assert good(ask(configured(stub, retries=0), [PAIR], ledger=Short(3))[0])
        answers, time = ask(configured(stub, deadline=20.0), [PAIR], ledger=Short(1 << 30))
        assert len(stub.keys) == 1
    assert isinstance(answers[0], CompletionError) and str(answers[0]) == "requests in flight hold it back"
    assert 15.0 < time.now < 20.0 and max(time.slept) == 0.5


def test_a_hanging_endpoint_is_given_up_after_the_timeout() -> None:
    with Stub(script=["hang"]) as stub:
        (reply,) = good(ask(configured(stub, timeout=0.3), [PAIR])[0])
    assert reply.text == "Output (b)"
    assert stub.report()["double_billed"] == 0


@pytest.mark.parametrize(
    ("header", "pause"),
    [("7", 7.0), ("0.5", 0.5), (formatdate(1e9 + 9, usegmt=True), 9.0), ("soon", 0.125), ("-3", 0.125)],
)
def test_retry_after_is_honoured(header: str, pause: float) -> None:
    with Stub(script=["429"], retry_after=header) as stub:
        answers, time = ask(configured(stub), [PAIR])
    assert good(answers)
    assert time.slept == [pytest.approx(pause)]


def test_retries_and_the_deadline_bound_a_call() -> None:
    with Stub(script=["500"] * 3) as stub:
        answers, _ = ask(configured(stub, retries=2), [PAIR])
        assert isinstance(answers[0], CompletionError)
        assert "no answer in 3 attempts" in str(answers[0])
        assert "status 500" in str(answers[0])
    with Stub(script=["429"], retry_after="600") as stub:
        answers, time = ask(configured(stub), [PAIR])
    assert "status 429, to be asked again in 600 s" in str(answers[0])
    assert time.slept == []


@pytest.mark.parametrize(
    ("status", "says"), [("400", "trouble"), ("404", "trouble"), ("403", "refused the key in STUB")]
)
def test_other_refusals_fail_at_once_without_the_key(status: str, says: str) -> None:
    with Stub(script=[status]) as stub:
        answers, _ = ask(configured(stub), [PAIR])
    assert isinstance(answers[0], CompletionError)
    assert f"status {status}" in str(answers[0])
    assert says in str(answers[0])
    assert KEY not in repr(answers[0])
    assert answers[0].__context__ is None
    assert len(stub.keys) == 1


def test_a_wrong_key_is_never_repeated() -> None:
    with Stub(key="another") as stub:
        answers, _ = ask(configured(stub), [PAIR])
    assert "refused the key in STUB_KEY" in str(answers[0])
    assert KEY not in str(answers[0])


def test_no_more_requests_in_flight_than_configured() -> None:
    with Stub(latency=0.05, shares={"500": 0.3}) as stub:
        answers, _ = ask(configured(stub, concurrency=4), [f"prompt {i}" for i in range(60)])
        assert len(good(answers)) == 60
        report = stub.report()
    assert stub.most_at_once == 4
    assert report["served"] == report["billed"] == 60
    assert report["resent"] == 0


def test_an_outage_is_sat_out_behind_the_breaker() -> None:
    with Stub(script=["503"] * 12) as stub:
        answers, time = ask(configured(stub, concurrency=20), [f"prompt {i}" for i in range(10)])
    assert len(good(answers)) == 10
    assert len(stub.keys) == 12 + 10
    assert time.now >= 1.0  # the first retries alone would have been over before


def test_while_the_breaker_is_open_calls_wait_up_to_their_deadline() -> None:
    with Stub(shares={"503": 1.0}) as stub:
        answers, time = ask(configured(stub, concurrency=20, deadline=20.0), [f"prompt {i}" for i in range(12)])
    assert all(isinstance(a, CompletionError) for a in answers)
    assert any("the endpoint is down" in str(a) for a in answers)
    assert len(stub.keys) < 12 + 8
    assert time.now >= 15.0


def test_the_most_that_a_request_can_cost_counts_bytes_and_further_arguments() -> None:
    assert bound("ü" * 3, {"max_tokens": 10}) == (6 + 8, 10)
    assert bound(PAIR, {"max_tokens": 5, "max_completion_tokens": 50, "n": 2, "tools": ["x"]}) == (86 + 5, 100)
    assert bound("abcde", {"max_tokens": 10}, bytes_per_token=4) == (4, 10)
    assert bound("abcde", {"max_tokens": 10, "n": 2, "best_of": 4}) == (13, 40)


def test_the_address_is_that_of_the_environment_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LLMJudgeConfig(kind="llm", model="judge", key_variable="STUB_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert OpenAICompleter(config).origin == {"base_url": "https://api.openai.com/v1"}
    monkeypatch.setenv("OPENAI_BASE_URL", "http://here/v1")
    assert OpenAICompleter(config).origin == {"base_url": "http://here/v1"}


def test_an_argument_that_is_none_is_not_sent() -> None:
    with Stub() as stub:
        good(ask(configured(stub), [PAIR], {**ARGUMENTS, "seed": None})[0])
        good(ask(configured(stub), [PAIR], {"max_tokens": None, "max_completion_tokens": None})[0])
    assert "seed" not in stub.bodies[0]
    assert stub.bodies[1] == {"max_tokens": 100, "model": "judge", "messages": PAIR}


def test_a_missing_key_or_a_wrong_address_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", " ")
    config = LLMJudgeConfig(kind="llm", model="judge", base_url="localhost:80", key_variable="STUB_KEY")
    with pytest.raises(InputError, match="variable STUB_KEY holds no key"):
        OpenAICompleter(config)
    monkeypatch.setenv("STUB_KEY", KEY)
    with pytest.raises(InputError, match="base_url 'localhost:80' is no address"):
        OpenAICompleter(config)
