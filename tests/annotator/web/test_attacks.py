"""What somebody who means harm may send to the service, each with what has to come of it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from rayalign.annotator.asking.bodies import MAX_ROWS
from rayalign.annotator.store.labels import Label
from rayalign.annotator.web.body_limits import MAX_VALUES
from tests.annotator.web import test_app
from tests.annotator.web.test_app import PAIR, client_of

JSON = {"Content-Type": "application/json"}
TOKENS = {"RAYALIGN_TOKENS": "ann:anns-long-token"}
TOKEN = {"Authorization": "Bearer anns-long-token"}
SECONDS = 1.0
"""of this process, for any small request"""
MEMORY = 100 << 20
"""bytes at the same time, for any small request"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service in which no test leaves anything."""
    with client_of(tmp_path_factory.mktemp("shared"), queue=MAX_ROWS) as opened:
        assert opened.get("/healthz").status_code == 200  # what the first request loads is no cost of the attack
        yield opened


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """A service with a database of its own."""
    with client_of(tmp_path, queue=MAX_ROWS) as opened:
        yield opened


def rows(row: bytes, size: int) -> bytes:
    """A request whose list of pairs takes so many bytes."""
    return b'{"annotator": "length", "pairs": [' + b",".join([row] * (size // (len(row) + 1))) + b"]}"


def keys(count: int) -> bytes:
    return b",".join(b'"key %d": 0' % number for number in range(count))


def one_pair(fields: bytes) -> bytes:
    return (
        b'{"annotator": "length", "pairs": [{"instruction": "q", "output_1": "a", "output_2": "b", ' + fields + b"}]}"
    )


def many(value: bytes, count: int = 60_000) -> bytes:
    return b"[" + b",".join([value] * count) + b"]"


SMALL = {
    "many empty rows": ("/v1/preferences", rows(b"{}", 292 << 10)),
    "many numbers for rows": ("/v1/preferences", rows(b"0", 2 << 20)),
    "as many as are parsed": ("/v1/preferences", rows(b"0", 2 * (MAX_VALUES - 10))),
    "many empty items": ("/v1/scores", b'{"annotator": "length", "items": ' + many(b"{}") + b"}"),
    "many empty lists": ("/v1/rankings", b'{"items": ' + many(b"[]") + b"}"),
    "many outputs": ("/v1/rankings", b'{"items": [{"instruction": "q", "outputs": ' + many(b"0") + b"}]}"),
    "many empty uploads": ("/v1/label/pairs", b'{"pairs": ' + many(b"{}") + b"}"),
    "many unknown keys": ("/v1/preferences", b'{"pairs": [], ' + keys(60_000) + b"}"),
    "many unknown keys in a row": ("/v1/preferences", one_pair(keys(60_000))),
    "many facts": ("/v1/preferences", one_pair(b'"meta": {' + keys(60_000) + b"}")),
    "many messages": ("/v1/preferences", one_pair(b'"messages": ' + many(b"{}"))),
    "a list for an object": ("/v1/preferences", many(b"{}")),
    "many chat messages": ("/v1/chat/completions", b'{"model": "length", "messages": ' + many(b"0") + b"}"),
    "many parts of a message": (
        "/v1/chat/completions",
        b'{"model": "length", "messages": [{"role": "user", "content": ' + many(b"{}") + b"}]}",
    ),
    "many tools": (
        "/v1/chat/completions",
        b'{"model": "length", "messages": [{"role": "user", "content": ""}], "tools": ' + many(b"{}") + b"}",
    ),
    "many prompts": ("/v1/completions", b'{"model": "length", "prompt": ' + many(b"0") + b"}"),
    "many options": (
        "/v1/completions",
        b'{"model": "length", "prompt": "", "stream_options": {' + keys(60_000) + b"}}",
    ),
    "a long name": ("/v1/preferences", json.dumps({"annotator": "n" * 1_000_000, "pairs": [PAIR]}).encode()),
    "a long model": ("/v1/completions", json.dumps({"model": "n" * 1_000_000, "prompt": ""}).encode()),
    "a long key": ("/v1/preferences", one_pair(b'"' + b"k" * 1_000_000 + b'": 0')),
    "deep lists": ("/v1/preferences", b"[" * 50_000),
    "deep objects": ("/v1/preferences", b'{"pairs": ' * 20_000),
    "a long number": ("/v1/preferences", b'{"seed": ' + b"9" * 1_000_000 + b"}"),
}


@pytest.mark.parametrize("name", SMALL)
def test_one_small_body_costs_little(shared: TestClient, name: str) -> None:
    path, body = SMALL[name]
    tracemalloc.start()
    start = time.process_time()
    reply = shared.post(path, content=body, headers=JSON)
    seconds = time.process_time() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reply.status_code in (400, 404, 413, 422), reply.text[:300]
    assert len(reply.content) < 4000
    assert seconds < 5 * SECONDS and peak < MEMORY, f"{seconds:.2f} s, {peak >> 20} MiB"  # traced, so slower


@pytest.mark.parametrize("name", ["many empty rows", "many numbers for rows", "many empty uploads"])
def test_wrong_rows_are_refused_in_a_moment(shared: TestClient, name: str) -> None:
    path, body = SMALL[name]
    start = time.process_time()
    assert shared.post(path, content=body, headers=JSON).status_code in (413, 422)
    assert time.process_time() - start < SECONDS


def test_a_large_body_of_small_values_is_never_parsed(shared: TestClient) -> None:
    start = time.process_time()
    reply = shared.post("/v1/preferences", content=rows(b"{}", 31 << 20), headers=JSON)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "too_large")
    assert f"more than {MAX_VALUES} values" in reply.json()["error"]["message"]
    assert time.process_time() - start < 8 * SECONDS  # beside other work it took 3.4


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_another_encoding_hides_no_values(shared: TestClient, encoding: str) -> None:
    body = ('{"a": "∢", "pairs": [' + "0," * MAX_VALUES + "0]}").encode(encoding)
    reply = shared.post("/v1/preferences", content=body, headers=JSON)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("text", ['"', "\\", '\\"', '\\\\"', "\\u0022", 'a\\\\\\"b'])
def test_escapes_hide_no_values(shared: TestClient, text: str) -> None:
    body = f'{{"annotator": {json.dumps(text)}, "pairs": [{"0," * MAX_VALUES}0]}}'.encode()
    assert shared.post("/v1/preferences", content=body, headers=JSON).status_code == 413


def test_texts_full_of_structure_are_no_values(client: TestClient) -> None:
    text = '[{"a", ' * 2000
    pairs = [{"instruction": f"{number}", "output_1": text, "output_2": "b"} for number in range(400)]
    reply = client.post("/v1/preferences", json={"annotator": "length", "pairs": pairs})
    assert reply.status_code == 200 and len(reply.json()["annotations"]) == 400


def test_a_request_as_large_as_allowed_is_answered(client: TestClient) -> None:
    pairs = [{**PAIR, "instruction": f"question {number}"} for number in range(MAX_ROWS)]
    assert client.post("/v1/preferences", json={"annotator": "length", "pairs": pairs}).status_code == 200
    more = {"annotator": "length", "pairs": [*pairs, PAIR]}
    refused = client.post("/v1/preferences", json=more)
    assert refused.status_code == 422 and f"at most {MAX_ROWS}" in refused.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/preferences", "/v1/chat/completions"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"\\ud800": 0}',
        one_pair(b'"\\ud800": 0'),
        one_pair(b'"\\u001b[2J": 0'),
        one_pair(b'"meta": {"a": "\\ud800"}'),
        b'{"annotator": "\\ud800", "model": "\\ud800", "prompt": ""}',
        b'{"flip": NaN, "temperature": NaN}',
        b'{"flip": 1e999, "temperature": -1e999}',
    ],
)
def test_what_is_no_text_or_number_is_refused_in_plain_words(shared: TestClient, path: str, body: bytes) -> None:
    reply = shared.post(path, content=body, headers=JSON)
    assert reply.status_code in (400, 422)
    assert "\x1b" not in reply.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_form_of_another_site_changes_nothing(client: TestClient, kind: str) -> None:
    body = json.dumps({"queue": "planted", "pairs": [PAIR]}).encode()
    headers = {"Content-Type": kind, "Origin": "https://evil.example"}
    assert client.post("/v1/label/pairs", content=body, headers=headers).status_code in (400, 422)
    assert client.get("/v1/label/progress").json() == []


def test_no_other_site_may_read_or_ask(shared: TestClient) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    asked = shared.options("/v1/preferences", headers=headers)
    read = shared.get("/v1/annotators", headers=headers)
    assert asked.status_code == 405
    assert not [name for reply in (asked, read) for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_no_other_site_frames_the_page(shared: TestClient, path: str) -> None:
    assert "frame-ancestors 'none'" in shared.get(path).headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page.css/../../app.py",
        "/..%2fweb%2fapp.py",
        "/page.css%00.html",
        "//etc/passwd",
    ],
)
def test_no_path_leads_to_another_file(shared: TestClient, path: str) -> None:
    reply = shared.get(path)
    assert reply.status_code == 404 and set(reply.json()) == {"error"}


@pytest.mark.parametrize("name", ["q'; DROP TABLE label_pairs; --", 'q" OR 1=1', "../../q", "q\x00", "q\n"])
def test_no_name_is_sql_or_a_path(shared: TestClient, name: str) -> None:
    upload = {"queue": name, "pairs": [PAIR]}
    assert shared.post("/v1/label/pairs", json=upload).status_code == 422
    for path in ("/v1/label/next", "/v1/label/export", "/v1/agreement", "/v1/leaderboard"):
        assert shared.get(path, params={"queue": name, "labeller": "ann"}).status_code == 422


def test_sql_in_a_text_stays_text(client: TestClient) -> None:
    text = "'); DELETE FROM label_pairs; --"
    pair = {"id": text, "instruction": text, "output_1": text, "output_2": "b", "meta": {"generator_1": text}}
    client.post("/v1/label/pairs", json={"pairs": [pair]})
    assert client.post("/v1/label/annotate", json={"annotator": "length"}).json()["verdicts"] == 1
    (row,) = client.get("/v1/label/export").json()
    assert (row["id"], row["instruction"], row["output_1"], row["generator_1"]) == (text, text, text, text)


def test_no_token_is_written_anywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with client_of(tmp_path, environment=TOKENS) as client:
        wrong = {"Authorization": "Bearer somebody-elses-token"}
        replies = [client.get("/v1/annotators", headers=headers) for headers in (wrong, TOKEN)]
        replies += [client.post("/v1/preferences", content=b"{", headers=TOKEN | JSON)]
        replies += [client.get("/metrics", headers=TOKEN)]
    texts = [caplog.text, *(reply.text for reply in replies)]
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for secret in ("somebody-elses-token", "anns-long-token"):
        assert not [text for text in texts if secret in text] and secret.encode() not in stored


def test_a_queue_that_repeats_an_id_is_annotated(client: TestClient) -> None:
    pairs = [{**PAIR, "id": "same", "instruction": f"question {number}"} for number in range(3)]
    client.post("/v1/label/pairs", json={"pairs": pairs})
    asked = client.post("/v1/label/annotate", json={"annotator": "length"})
    assert (asked.status_code, asked.json()["verdicts"]) == (200, 3)
    assert [row["id"] for row in client.get("/v1/label/export").json()] == ["same"] * 3


def test_an_export_of_many_megabytes_is_whole(client: TestClient) -> None:
    pairs = [{**PAIR, "instruction": f"{number}", "output_1": "long " * 1200} for number in range(805)]
    client.post("/v1/label/pairs", json={"pairs": pairs})
    after: int | None = 0
    while after is not None:
        reply = client.post("/v1/label/annotate", json={"annotator": "length", "after": after})
        after = reply.json()["next"]
    export = client.get("/v1/label/export")
    assert len(export.content) > 4 << 20
    assert len({row["instruction"] for row in export.json()}) == 805


class Slow:
    """Figures that take a while."""

    def agreement(self, queue: str, labels: Sequence[Label]) -> Any:
        time.sleep(2.0)
        raise AssertionError("not read")

    def leaderboard(self, labels: Sequence[Label]) -> list[Any]:
        time.sleep(2.0)
        return []


@pytest.mark.parametrize("route", ["agreement", "leaderboard"])
def test_nothing_waits_for_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    monkeypatch.setattr(test_app, "label_figures", Slow())
    app = client_of(tmp_path).app

    async def attack() -> float:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            await client.get("/healthz")
            start = time.perf_counter()  # before the figures, which would hold the loop until they are done
            figures = [asyncio.create_task(client.get(f"/v1/{route}")) for _ in range(50)]
            await asyncio.sleep(0.1)
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/v1/label/progress")).status_code == 200  # which needs a thread
            seconds = time.perf_counter() - start
            for task in figures:
                task.cancel()
            await asyncio.gather(*figures, return_exceptions=True)
            return seconds

    assert asyncio.run(attack()) < 1.6
