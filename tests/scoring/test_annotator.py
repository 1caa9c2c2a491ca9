"""The scorer that asks an annotator over HTTP, against a service that fails as told."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rayalign.annotator.api import PairItem
from rayalign.annotator.budget import BudgetError
from rayalign.annotator.client import AnnotatorClient
from rayalign.errors import InputError
from rayalign.scoring.annotator import AnnotatorScorer
from rayalign.scoring.base import ALONE
from rayalign.types import Group, Message, Prompt, Score, Segment, Trajectory

SEGMENTS = (Segment(0, "template"), Segment(2, "policy", 0))


def group(name: str, *answers: str) -> Group:
    """A prompt with answers."""
    rows = (Trajectory(name, i, (1, 2, 3), SEGMENTS, (0.0,), "stop", text) for i, text in enumerate(answers))
    return Group(name, Prompt(name, (Message("user", f"say {name}"),), {"task": "t"}), 0, tuple(rows))


class Service:
    """Answers by its script of statuses, then always well: the score of an answer is its number of words.

    A float is so many seconds that a good answer takes.
    """

    def __init__(self, script: Sequence[int | str | float]) -> None:
        self.script = list(script)
        self.asked: list[dict[str, object]] = []

    def answer(self, body: dict[str, object]) -> tuple[int, bytes]:
        """Status and body of the next reply."""
        self.asked.append(body)
        said = self.script.pop(0) if self.script else 200
        if isinstance(said, float):
            time.sleep(said)
        if said == 200 and "pairs" in body:
            count = len(body["pairs"])  # type: ignore[arg-type]
            return 200, json.dumps({"pairs": count, "verdicts": count}).encode()
        if said == 200 and "outputs" in body["items"][0]:  # type: ignore[index]
            return 200, json.dumps({"rankings": [_ranked(i, item) for i, item in enumerate(body["items"])]}).encode()  # type: ignore[arg-type]
        if said == 200 or isinstance(said, float):
            items: list[dict[str, str]] = body["items"]  # type: ignore[assignment]
            rows = [self._score(i, item["output"]) for i, item in enumerate(items)]
            return 200, json.dumps({"scores": rows}).encode()
        if said == "bare 500":
            return 500, b"Internal Server Error"
        problem = {"code": "unknown_annotator", "message": "there is no 'gould'"}
        return int(said), json.dumps({"error": problem}).encode()

    def _score(self, index: int, output: str) -> dict[str, object]:
        absent = {"score": None, "reason": "an empty answer"}
        return {"index": index, **({"score": float(len(output.split()))} if output else absent)}


def _ranked(index: int, item: dict[str, list[str]]) -> dict[str, object]:
    """The share of the other answers that have fewer words; there is no verdict on an empty answer."""
    counts = [len(output.split()) for output in item["outputs"]]
    shares = [sum(count > other for other in counts) / (len(counts) - 1) if count else None for count in counts]
    return {"index": index, "order": list(range(len(counts))), "scores": shares, "reason": "an empty answer"}


def _info(name: str, scores: bool) -> dict[str, object]:
    return {"name": name, "kind": "stub", "revision": "1", "scores": scores, "pooled": True}


@contextmanager
def serving(script: Sequence[int | str | float] = ()) -> Iterator[tuple[str, Service]]:
    """The address and the service, over a real socket."""
    service = Service(script)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(200, json.dumps({"annotators": [_info("gold", True), _info("judge", False)]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._reply(*service.answer(body))

        def _reply(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}#gold", service
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def test_each_candidate_is_asked_for_by_content_and_answered_in_order() -> None:
    with serving() as (address, service):
        found = AnnotatorScorer(address, 10.0).score([group("a", "one", "one two"), group("b", "")])
    assert found == [(Score(1.0), Score(2.0)), (Score(None, "an empty answer"),)]
    assert service.asked[0]["annotator"] == "gold"
    messages = [{"role": "user", "content": "say a"}]
    assert service.asked[0]["items"][1] == {"messages": messages, "meta": {"task": "t"}, "output": "one two"}  # type: ignore[index]


@pytest.mark.parametrize("script", [[503, 429], ["bare 500", "bare 500"], [502, "bare 500", 504]])
def test_a_service_that_is_full_or_broken_for_a_moment_is_asked_again(script: list[int | str]) -> None:
    with serving(script) as (address, service):
        assert AnnotatorScorer(address, 30.0).score([group("a", "one")]) == [(Score(1.0),)]
    assert len(service.asked) == len(script) + 1


def test_scores_of_a_service_that_stays_away_are_absent_with_the_reason() -> None:
    with serving([503] * 1000) as (address, _):
        found = AnnotatorScorer(address, 0.5).score([group("a", "one"), group("b", "two", "three")])
    assert [[score.value for score in scores] for scores in found] == [[None], [None, None]]
    # of the last request, whose reply may have come too late
    assert re.search(r"no answer within 0\.5 s \((503|\w*Timeout)", str(found[1][1].reason))


def test_the_deadline_is_of_all_the_requests_of_a_call() -> None:
    groups = [group(str(number), *["one"] * 256) for number in range(40)]
    with serving([0.3] * 40) as (address, service):
        (found, *_) = AnnotatorScorer(address, 1.0).score(groups)
    assert {score.value for score in found} == {None}
    assert len(service.asked) < 40


def test_answers_to_one_prompt_are_sent_together() -> None:
    groups = [group(str(number), *["one"] * 5) for number in range(120)]
    with serving() as (address, service):
        found = AnnotatorScorer(address, 10.0).score(groups)
    assert [len(scores) for scores in found] == [5] * 120
    sizes = sorted(len(body["items"]) for body in service.asked)  # type: ignore[arg-type]
    assert sizes == [80, 260, 260]


def test_scores_that_take_most_of_the_deadline_are_asked_for_once() -> None:
    with serving([2.1]) as (address, service):
        assert AnnotatorScorer(address, 8.0).score([group("a", "one")]) == [(Score(1.0),)]
    assert len(service.asked) == 1


def test_a_budget_that_is_spent_is_no_wrong_input() -> None:
    with serving([402]) as (address, _), pytest.raises(BudgetError, match="402"):
        AnnotatorScorer(address, 30.0).score([group("a", "one")])


@pytest.mark.parametrize("name", ["judge", "pool"])
def test_one_that_only_compares_gives_the_mean_preference_over_the_others(name: str) -> None:
    groups = [group("a", "one two", "one", "one two three"), group("b", "alone"), group("c", "one", "")]
    with serving() as (address, service):
        scorer = AnnotatorScorer(address.replace("gold", name), 10.0)
        found, again = scorer.score(groups), scorer.score(groups)
    assert (
        found
        == again
        == [
            (Score(0.5), Score(0.0), Score(1.0)),
            (Score(None, ALONE),),
            (Score(1.0), Score(None, "an empty answer")),
        ]
    )
    assert [len(body["items"]) for body in service.asked] == [2, 2]  # type: ignore[arg-type]
    assert service.asked[0]["annotator"] == name


def test_more_answers_than_the_service_compares_are_absent_with_the_reason() -> None:
    with serving() as (address, _):
        (found,) = AnnotatorScorer(address.replace("gold", "judge"), 10.0).score([group("a", *["one"] * 65)])
    assert set(found) == {Score(None, "65 answers are more than the 64 that are compared")}


def test_an_estimate_counts_equal_rows_once_however_far_apart() -> None:
    rows = [PairItem(id=str(i), instruction=f"q{i % 3}", output_1="a", output_2="b") for i in range(12)]
    with serving() as (address, _):
        found = AnnotatorClient(address.partition("#")[0], rows=4).estimate(rows)
    assert (found.pairs, found.verdicts) == (12, 3)


def test_an_instruction_that_is_empty_is_sent_as_one() -> None:
    with serving() as (address, service):
        AnnotatorClient(address.partition("#")[0]).estimate([PairItem(instruction="", output_1="a", output_2="b")])
    assert service.asked[0]["pairs"] == [{"instruction": "", "output_1": "a", "output_2": "b"}]


@pytest.mark.parametrize("url", ["127.0.0.1:8900", "localhost:8900", "ftp://host"])
def test_an_address_without_http_is_told_at_once(url: str) -> None:
    with pytest.raises(InputError, match="is no address"):
        AnnotatorClient(url)


def test_a_request_that_the_service_refuses_ends_the_run_at_once() -> None:
    with serving([404]) as (address, service), pytest.raises(InputError, match="there is no 'gould'"):
        AnnotatorScorer(address, 30.0).score([group("a", "one")])
    assert len(service.asked) == 1


def test_an_annotator_that_compares_reads_the_turns_that_differ() -> None:
    asked = (Message("assistant", "of whom ?"), Message("user", "of tom ."))
    plain = group("a", "one", "two")
    trajectories = (replace(plain.trajectories[0], turns=asked), plain.trajectories[1])
    with serving() as (address, service):
        judge = address.replace("#gold", "#judge")
        AnnotatorScorer(judge, 10.0).score([replace(plain, trajectories=trajectories)])
    (item,) = service.asked[0]["items"]  # type: ignore[misc]
    assert item["outputs"] == ["assistant: of whom ?\n\nuser: of tom .\n\nassistant: one", "two"]  # type: ignore[index]
