from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from rayalign.annotator.judges.verdicts import Usage
from rayalign.annotator.pool.annotator import PoolAnnotator
from rayalign.annotator.pool.pool import Pool
from rayalign.annotator.store import label_figures
from rayalign.annotator.store.budget import Budget
from rayalign.annotator.store.database import Database
from rayalign.annotator.store.labels import LabelStore
from rayalign.annotator.store.verdict_store import VerdictStore
from rayalign.annotator.web.access import Access, known_tokens
from rayalign.annotator.web.app import create_app
from rayalign.config import AccessConfig, BudgetConfig, ServiceConfig
from tests.annotator.fakes import FakeJudge, status_after_a_drop

TOKEN = {"Authorization": "Bearer anns-long-token"}
PAIR = {"instruction": "question", "output_1": "a", "output_2": "bbb"}


def client_of(
    folder: Path, *, queue: int = 100, environment: dict[str, str] | None = None, **access: Any
) -> TestClient:
    url = f"sqlite:///{folder / 'verdicts.db'}"
    judge = FakeJudge(price=0.5)
    annotators = [
        PoolAnnotator("length", "fake", FakeJudge(), scoring=FakeJudge()),
        PoolAnnotator("costly", "fake", judge, pooled=False, estimate=lambda pairs: Usage(price=0.5 * len(pairs))),
    ]
    database = Database(url)
    budget = Budget(database, BudgetConfig(dollars=1.0))
    pool = Pool(annotators, VerdictStore(database), budget, chunk=64, timeout=60.0)
    section = AccessConfig(**access)
    config = ServiceConfig.model_validate(
        {"annotators": {"length": {"judge": {"kind": "rubric"}}}, "queue": queue, "access": section}
    )
    app = create_app(
        pool, config, Access(section, known_tokens(section, environment or {})), LabelStore(url), label_figures
    )
    return TestClient(app, "http://localhost", raise_server_exceptions=False)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with client_of(tmp_path) as found:
        yield found


def test_preferences_come_back_in_order_with_a_summary(client: TestClient) -> None:
    pairs = [{**PAIR, "id": "x"}, {"instruction": "broken", "output_1": "a", "output_2": "b"}]
    reply = client.post("/v1/preferences", json={"annotator": "length", "pairs": pairs})
    assert reply.status_code == 200
    body = reply.json()
    assert [(a["id"], a["preference"], a["reason"]) for a in body["annotations"]] == [
        ("x", 2.0, None),
        (None, None, "the judge broke"),
    ]
    assert body["summary"] == {
        "rows": 2, "absent": 1, "cached": 0, "noise": 0, "inconsistent": 0, "position_bias": None, "price": 0.0,
    }  # fmt: skip
    again = client.post("/v1/preferences", json={"annotator": "length", "pairs": pairs}).json()
    assert [a["cached"] for a in again["annotations"]] == [True, False]


def test_both_orders_report_the_position_bias(client: TestClient) -> None:
    reply = client.post("/v1/preferences", json={"annotator": "length", "pairs": [PAIR], "both_orders": True})
    assert reply.json()["summary"]["position_bias"] == 0.0


def test_a_stream_ends_with_its_summary(client: TestClient) -> None:
    pairs = [{**PAIR, "instruction": f"question {i}"} for i in range(90)]
    with client.stream(
        "POST", "/v1/preferences", json={"annotator": "length", "pairs": pairs, "stream": True}
    ) as reply:
        lines = [json.loads(line) for line in reply.iter_lines()]
    assert {line["index"] for line in lines[:-1]} == set(range(90))
    assert lines[-1]["summary"]["rows"] == 90


def test_scores_rankings_and_the_pool(client: TestClient) -> None:
    items = [{"instruction": "q", "output": "four"}, {"instruction": "q", "output": ""}]
    scores = client.post("/v1/scores", json={"annotator": "length", "items": items}).json()["scores"]
    assert [(s["score"], s["reason"]) for s in scores] == [(4.0, None), (None, "empty")]
    lists = [{"instruction": "q", "outputs": ["aa", "a", "aaa"]}]
    ranking = client.post("/v1/rankings", json={"annotator": "costly", "items": lists})
    assert ranking.status_code == 402, "three pairs are one dollar and a half"
    ranking = client.post("/v1/rankings", json={"annotator": "length", "items": lists}).json()["rankings"][0]
    assert ranking["order"] == [2, 0, 1]
    known = client.get("/v1/annotators").json()["annotators"]
    assert [(k["name"], k["scores"], k["pooled"]) for k in known] == [("length", True, True), ("costly", False, False)]


def test_a_budget_is_an_error_body_and_the_cache_stays_free(client: TestClient) -> None:
    ask = {"annotator": "costly", "pairs": [{**PAIR, "instruction": f"q{i}"} for i in range(2)]}
    estimate = client.post("/v1/estimate", json=ask).json()
    assert (estimate["price"], estimate["dollars_left"]) == (1.0, 1.0)
    assert client.post("/v1/estimate", json={**ask, "both_orders": True}).json()["price"] == 2.0
    assert client.post("/v1/preferences", json=ask).status_code == 200
    more = client.post("/v1/preferences", json={**ask, "pairs": [PAIR]})
    assert more.status_code == 402 and more.json()["error"]["code"] == "budget"
    assert client.post("/v1/preferences", json=ask).status_code == 200
    assert 'rayalign_dollars{judge="costly"} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"{", 400, "invalid_json", None),
        (b'{"pairs": "\xff"}', 400, "invalid_json", None),
        (b'{"pairs": []}', 422, "invalid_request", "pairs"),
        (
            b'{"pairs": [{"instruction": "q", "output_1": 3, "output_2": "b"}]}',
            422,
            "invalid_request",
            "pairs.0.output_1",
        ),
        (b'{"pairs": [{"instruction": "q", "output_1": "a"}]}', 422, "invalid_request", "pairs.0.output_2"),
        (
            b'{"pairs": [{"instruction": "q", "output_1": "a", "output_2": "b"}], "seed": true}',
            422,
            "invalid_request",
            "seed",
        ),
        (
            b'{"pairs": [{"instruction": "q", "output_1": "a", "output_2": "b"}], "both_orders": "yes"}',
            422,
            "invalid_request",
            "both_orders",
        ),
        (
            b'{"pairs": [{"instruction": "q", "output_1": "a", "output_2": "b"}], "flip": NaN}',
            422,
            "invalid_request",
            "flip",
        ),
        (
            b'{"pairs": [{"instruction": "q", "output_1": "a", "output_2": "b"}], "colour": 1}',
            422,
            "invalid_request",
            "colour",
        ),
        (
            b'{"annotator": "lenght", "pairs": [{"instruction": "", "output_1": "a", "output_2": "b"}]}',
            404,
            "unknown_annotator",
            "annotator",
        ),
        (
            b'{"pairs": [{"id": "x", "input": "q", "output_1": "a", "output_2": "b"}, '
            b'{"id": "x", "input": "q", "output_1": "a", "output_2": ""}]}',
            422,
            "invalid_request",
            "pairs",
        ),
        (b'{"pairs": [{"output_1": "\\ud800", "output_2": "b"}]}', 422, "invalid_request", "pairs.0.output_1"),
        (b'{"pairs": [{"output_1": "a", "output_2": "b"}]}', 422, "invalid_request", "pairs.0"),
    ],
)
def test_bad_input_names_the_field(client: TestClient, body: bytes, status: int, code: str, field: str | None) -> None:
    reply = client.post("/v1/preferences", content=body, headers={"Content-Type": "application/json"})
    problem = reply.json()["error"]
    assert (reply.status_code, problem["code"], problem["field"]) == (status, code, field)
    assert "Value error" not in problem["message"], "the user sees words of ours, not pydantic's"
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("name", ["pool", "costly"])
def test_an_annotator_that_does_not_score_is_told_with_those_that_do(client: TestClient, name: str) -> None:
    item = {"instruction": "q", "output": "a"}
    reply = client.post("/v1/scores", json={"annotator": name, "items": [item]})
    problem = reply.json()["error"]
    assert (reply.status_code, problem["code"], problem["field"]) == (422, "invalid_request", "annotator")
    assert f"{name} compares answers and scores none; those that score: length" in problem["message"]


def test_openais_endpoints_tell_a_wrong_method_in_their_form(client: TestClient) -> None:
    reply = client.get("/v1/completions")
    assert reply.status_code == 405 and reply.headers["allow"] == "POST"
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_gigantic_bodies_and_outputs_are_refused(tmp_path: Path) -> None:
    with client_of(tmp_path, max_body=1000) as client:
        big = {"annotator": "length", "pairs": [{**PAIR, "output_1": "a" * 2000}]}
        assert client.post("/v1/preferences", json=big).json()["error"]["code"] == "too_large"

        def parts() -> Iterator[bytes]:  # no Content-Length
            for _ in range(20):
                yield b"[" * 100

        assert client.post("/v1/preferences", content=parts()).status_code == 413
    with client_of(tmp_path) as client:
        long = {"annotator": "length", "pairs": [{**PAIR, "output_1": "a" * 200_001}]}
        assert client.post("/v1/preferences", json=long).json()["error"]["field"] == "pairs.0.output_1"


def test_more_work_than_the_queue_is_never_taken(tmp_path: Path) -> None:
    both = {"annotator": "length", "both_orders": True}
    ranked = {"instruction": "q", "outputs": ["a", "b", "c", "d", "e", "f"]}
    with client_of(tmp_path, queue=10) as client:
        for path, body, status in (
            ("/v1/preferences", {"pairs": [PAIR] * 11}, 413),
            ("/v1/preferences", {"pairs": [PAIR] * 5, **both}, 200),
            ("/v1/preferences", {"pairs": [PAIR] * 6, **both}, 413),
            ("/v1/preferences", {"pairs": [PAIR] * 6, **both, "stream": True}, 413),
            ("/v1/estimate", {"pairs": [PAIR] * 6, **both}, 413),
            ("/v1/rankings", {"annotator": "length", "items": [ranked]}, 200),
            ("/v1/rankings", {"items": [ranked]}, 413),  # fifteen comparisons
            ("/v1/rankings", {"annotator": "lenght", "items": [ranked] * 9}, 404),
        ):
            assert client.post(path, json=body).status_code == status, f"{path} {body}"


def test_a_stream_whose_client_is_gone_holds_no_room(tmp_path: Path) -> None:
    with client_of(tmp_path, queue=10) as client:
        asked = {"annotator": "length", "pairs": [PAIR] * 10}
        assert asyncio.run(status_after_a_drop(client.app, "/v1/preferences", asked)) == 200


def test_without_tokens_only_names_of_this_machine_are_answered(tmp_path: Path) -> None:
    with client_of(tmp_path) as client:
        for host in ("127.0.0.1:8900", "LOCALHOST", "[::1]:8900"):
            assert client.get("/v1/annotators", headers={"Host": host}).status_code == 200
        for host in ("rebound.example:8900", "localhost.rebound.example", "", "[::1"):
            for path in ("/", "/v1/annotators"):
                refused = client.get(path, headers={"Host": host})
                assert (refused.status_code, refused.json()["error"]["code"]) == (403, "unknown_host")
    elsewhere = {"Host": "annotator.example"}
    with client_of(tmp_path, open=True) as client:
        assert client.get("/v1/annotators", headers=elsewhere).status_code == 200
    with client_of(tmp_path, environment={"RAYALIGN_TOKENS": "ann:anns-long-token"}) as client:
        assert client.get("/v1/annotators", headers=TOKEN | elsewhere).status_code == 200


def test_every_route_but_the_public_ones_asks_for_a_token(tmp_path: Path) -> None:
    with client_of(tmp_path, environment={"RAYALIGN_TOKENS": "ann:anns-long-token"}) as client:
        spec = client.get("/openapi.json").json()
        for path, methods in spec["paths"].items():
            public = path in ("/healthz", "/readyz", "/", "/page.css", "/page.js")
            for method in methods:
                refused = client.request(method.upper(), path).status_code == 401
                assert refused != public, f"{method} {path}"
        assert client.get("/metrics").status_code == 401
        assert client.post("/v1/preferences", json={"pairs": [PAIR]}, headers=TOKEN).status_code == 200
        assert client.get("/metrics", headers=TOKEN).status_code == 200
        wrong = client.get("/metrics", headers={"Authorization": "Bearer wrong-secret"})
        assert "wrong-secret" not in wrong.text


def test_openais_endpoints_refuse_in_openais_form(tmp_path: Path) -> None:
    with client_of(tmp_path, environment={"RAYALIGN_TOKENS": "ann:anns-long-token"}, max_body=100) as client:
        for headers, status, code in (({}, 401, "unauthorized"), (TOKEN, 413, "too_large")):
            reply = client.post("/v1/completions", content=b" " * 101, headers=headers)
            error = reply.json()["error"]
            assert (reply.status_code, error["type"], error["code"]) == (status, "invalid_request_error", code)
            assert reply.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)


def test_metrics_hold_counts_and_no_secret(client: TestClient) -> None:
    client.post("/v1/preferences", json={"annotator": "length", "pairs": [PAIR]})
    text = client.get("/metrics").text
    assert 'rayalign_verdicts_total{annotator="length",outcome="judged"} 1.0' in text
    assert 'rayalign_requests_total{route="/v1/preferences",status="200"} 1.0' in text
