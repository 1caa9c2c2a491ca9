"""`rayalign submit` and `rayalign jobs` against a Ray cluster of one node, with its dashboard."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.heads import Head, environment, ray_head, rayalign

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(1800)]
JOB = """\
name: submitted
rollout: {engine: local, engines: 1, context: 64}
stages:
  base: {kind: pretrain, data: {limit: 100}, learner: {minibatch: 50}}
  answers:
    {kind: generate, model: stage:base, data: {split: preference, limit: 8}, count: 2, sampling: {max_tokens: 8}}
  labels: {kind: annotate, examples: stage:answers, annotator: careful}
  rm: {kind: train, algorithm: {name: reward}, model: stage:base, examples: stage:labels, learner: {minibatch: 8}}
  rrhf:
    kind: train
    algorithm: {name: rrhf}
    model: stage:base
    reward: stage:rm
    candidates: [{source: live, count: 2}]
    sampling: {max_tokens: 8}
    learner: {minibatch: 8}
    prompts: 4
    iterations: 1
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A Ray cluster of two CPUs that is nobody else's."""
    with ray_head(tmp_path_factory.mktemp("cluster") / "cluster.log", "--num-cpus=2") as head:
        yield head


def _rayalign(cluster: Head, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A command of rayalign against the cluster, in a folder that holds the job."""
    (folder / "job.yaml").write_text(JOB)
    return rayalign(cluster, folder, *arguments)


def test_a_cluster_too_small_for_the_job_is_refused_before_anything_is_placed(cluster: Head, tmp_path: Path) -> None:
    begin = time.monotonic()
    overrides = ("stages.base.roles={policy: {cpus: 3}}", "cluster.scale_timeout=2", f"output={tmp_path / 'runs'}")
    done = _rayalign(cluster, tmp_path, "submit", "job.yaml", *overrides)
    assert "stages.base.roles: needs 3 CPU, has 2 CPU, pending none: not there after 2 s" in done.stdout, done
    assert done.returncode == 2, done
    assert time.monotonic() - begin < 290, "it must not wait for a place, for which it has 300 s"


def test_a_submitted_job_is_the_same_run(cluster: Head, tmp_path: Path) -> None:
    done = _rayalign(cluster, tmp_path, "submit", "job.yaml", f"output={tmp_path / 'runs'}")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    summary = json.loads((tmp_path / "runs" / "submitted" / "summary.json").read_text())
    assert [(s["name"], s["status"]) for s in summary["stages"]] == [
        (name, "finished") for name in ("base", "answers", "labels", "rm", "rrhf")
    ]
    assert str(tmp_path / "runs" / "submitted" / "report.html") in done.stdout
    assert summary["peak_memory_bytes"] > 1 << 30, "its actors, which are not its children, are counted"
    with urlopen(f"{cluster.url}/api/serve/applications/", timeout=60) as reply:
        left = json.load(reply)
    assert not left["applications"] and not left["proxies"], "the run ends the service that it started"


def test_a_job_goes_on_without_its_client_until_it_is_stopped(cluster: Head, tmp_path: Path) -> None:
    # it waits for a CPU that never comes, so that it cannot end by itself
    overrides = ("stages.base.roles={policy: {cpus: 3}}", "cluster.scale_timeout=600", f"output={tmp_path / 'runs'}")
    submitted = _rayalign(cluster, tmp_path, "submit", "job.yaml", *overrides, "--no-wait")
    assert submitted.returncode == 0, submitted
    job = submitted.stdout.split()[1].rstrip(":")
    listed = _rayalign(cluster, tmp_path, "jobs", "list").stdout
    assert re.search(rf"{job} +(PENDING|RUNNING) .*rayalign run job\.yaml", listed), listed
    assert f"{job} is stopping" in _rayalign(cluster, tmp_path, "jobs", "stop", job).stdout
    followed = _rayalign(cluster, tmp_path, "jobs", "logs", job, "--follow")
    assert followed.returncode != 0 and f"rayalign: {job} stopped" in followed.stderr, followed


def test_a_cluster_refuses_a_wrong_token_and_none(tmp_path: Path) -> None:
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "the-token-of-this-cluster-and-no-other"}
    with ray_head(tmp_path / "head.log", "--num-cpus=1", **own) as head:
        assert _rayalign(head, tmp_path, "jobs", "list").returncode == 0
        wrong = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="a-wrong-token-that-is-as-long-as-it")
        for variables in (wrong, environment(RAY_AUTH_MODE="disabled")):
            refused = _rayalign(replace(head, environment=variables), tmp_path, "submit", "job.yaml", "output=/shared")
            assert refused.returncode == 2, refused
            reason = (
                f"the cluster at {head.url} refuses this machine's token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
            )
            assert reason in refused.stderr and refused.stderr.count("\n") == 1
