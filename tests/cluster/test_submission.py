"""What a client makes of a cluster that is not there, not its own, or not willing; a real HTTP server answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
from aiohttp import web

from rayalign.cluster import submission
from rayalign.cluster.submission import JobClient
from rayalign.errors import DeadlineError, InputError, RayalignError
from tests.dashboards import Dashboard, answering_dashboard
from tests.ports import held_port


@pytest.fixture
def dashboard() -> Iterator[tuple[type[Dashboard], str]]:
    with answering_dashboard() as answers:
        yield answers


Answering = tuple[type[Dashboard], str]


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", "auto", "http://"])
def test_an_address_is_that_of_a_dashboard(address: str) -> None:
    with pytest.raises(InputError, match="is no address of a cluster's dashboard; give a URL such as http"):
        JobClient(address)


def test_a_cluster_that_is_not_there() -> None:
    with held_port() as port, pytest.raises(InputError, match=f"no Ray dashboard answers at http://127.0.0.1:{port}; "):
        JobClient(f"http://127.0.0.1:{port}")


def test_a_cluster_that_does_not_answer_in_time(dashboard: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, address = dashboard
    answers.delay = 2.0
    monkeypatch.setattr(submission, "DEADLINE", 0.2)
    with pytest.raises(DeadlineError, match="did not answer within"):
        JobClient(address)


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_token_and_none(dashboard: Answering, status: int) -> None:
    answers, address = dashboard
    answers.answers["/api/version"] = (status, "Unauthorized")
    with pytest.raises(
        InputError, match=r"refuses this machine's token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to"
    ):
        JobClient(address)


def test_another_version_of_ray(dashboard: Answering) -> None:
    answers, address = dashboard
    answers.answers["/api/version"] = (200, {"ray_version": "2.40.0"})
    with pytest.raises(InputError, match=rf"runs Ray 2\.40\.0 and this machine has {ray.__version__}; set both up"):
        JobClient(address)


def test_a_job_that_the_cluster_does_not_know(dashboard: Answering) -> None:
    answers, address = dashboard
    with pytest.raises(InputError, match=r"knows no job raysubmit_1; `rayalign jobs list` names those"):
        JobClient(address).job("raysubmit_1")


def test_a_folder_that_is_too_large(dashboard: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("Package size (200B) exceeds the maximum size of 0.00MiB. To exclude large files, ...")

    def refuse(*_: object, **__: object) -> str:
        raise error

    client = JobClient(dashboard[1])
    monkeypatch.setattr(client._requests, "submit_job", refuse)
    with pytest.raises(InputError, match=r"too large to be sent: package size \(200b\) .* in \.rayignore"):
        client.submit("true", tmp_path, {})


def test_jobs_are_listed_in_the_order_of_their_start(dashboard: Answering) -> None:
    answers, address = dashboard
    common = {"type": "SUBMISSION", "entrypoint": "rayalign run job.yaml", "driver_exit_code": 3}
    rows = [
        common | {"submission_id": "second", "status": "RUNNING", "start_time": 20_000},
        common | {"submission_id": "first", "status": "FAILED", "start_time": 10_000, "end_time": 15_000},
        {"type": "DRIVER", "job_id": "01000000", "status": "RUNNING", "entrypoint": "python"},
    ]
    answers.answers["/api/jobs/"] = (200, rows)
    first, second = JobClient(address).jobs()
    assert (first.id, first.started, first.ended, first.exit_code, first.over) == ("first", 10.0, 15.0, 3, True)
    assert (second.id, second.ended, second.over) == ("second", None, False)


@contextmanager
def following(end: Callable[[web.Request, web.TCPSite], None]) -> Iterator[str]:
    """The address of a dashboard that sends one line of a job's log, and then calls `end`."""

    async def version(request: web.Request) -> web.Response:
        return web.json_response({"ray_version": ray.__version__})

    async def tail(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("step 1\n")
        end(request, site)
        await asyncio.sleep(3600.0)
        return socket

    app = web.Application()
    app.add_routes([web.get("/api/version", version), web.get("/api/jobs/job-1/logs/tail", tail)])
    loop, runner = asyncio.new_event_loop(), web.AppRunner(app, shutdown_timeout=0.1)
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    loop.run_until_complete(site.start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10.0)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def lines_until_lost(address: str) -> tuple[list[str], str]:
    """What came of a job's log, and the sentence that ended it."""
    lines: list[str] = []
    with pytest.raises(RayalignError) as lost:
        for text in JobClient(address).follow("job-1"):
            lines.append(text)
    return lines, str(lost.value)


def test_a_connection_that_breaks_while_a_log_is_followed() -> None:
    def break_off(request: web.Request, site: web.TCPSite) -> None:
        assert request.transport is not None
        request.transport.abort()

    with following(break_off) as address:
        lines, sentence = lines_until_lost(address)
    assert lines == ["step 1\n"]
    assert sentence.startswith(f"the connection to the cluster at {address} broke while job-1 was followed; where the ")
    assert f"follow it again with `rayalign jobs logs job-1 --follow --address {address}`" in sentence


def test_a_cluster_that_is_gone_without_a_word_while_a_log_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "SILENCE", 0.2)

    def stop_listening(request: web.Request, site: web.TCPSite) -> None:
        site._server.close()  # type: ignore[union-attr]

    with following(stop_listening) as address:
        lines, sentence = lines_until_lost(address)
    assert lines == ["step 1\n"]
    assert sentence.startswith(f"no Ray dashboard answers at {address}; ")
