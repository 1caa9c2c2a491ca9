"""What a client makes of a cluster that is not there, not its own, or not willing; a real HTTP server answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from rayalign.cluster import submission
from rayalign.cluster.submission import JobClient
from rayalign.errors import DeadlineError, InputError
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
