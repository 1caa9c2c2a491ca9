"""What a run makes of the cluster that it joins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayalign.config import LoadedJob
from rayalign.errors import InputError
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.inputs import Inputs

Study = Callable[..., LoadedJob]


class Cluster:
    """A session's view of a cluster that has so many GPUs, one more each time that it is asked to grow."""

    def __init__(self, gpus: int) -> None:
        self.gpus = gpus
        self.asked: list[list[dict[str, float]]] = []

    def resources(self) -> dict[str, float]:
        return {"CPU": 16.0, "GPU": float(self.gpus)}

    def demand(self, bundles: list[dict[str, float]]) -> None:
        self.asked.append(bundles)
        self.gpus += bool(bundles)


def compare(loaded: LoadedJob, cluster: Any) -> None:
    with RunContext(loaded, Inputs(loaded)) as context:
        context._compare(cluster)


@pytest.fixture
def job(study: Study, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LoadedJob]:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    return lambda *more: study("rollout.gpus=1", "stages.rl.roles.policy.gpus=1", *more)


def test_a_cluster_that_is_too_small_is_refused_at_once(job: Study) -> None:
    cluster = Cluster(2)
    with pytest.raises(InputError, match=r"stages\.rl\.roles: asks for 3 devices .* there are 2; .* or add machines"):
        compare(job(), cluster)
    assert cluster.asked == []


def test_a_cluster_that_grows_is_asked_for_the_largest_stage_and_then_let_go(job: Study) -> None:
    cluster = Cluster(2)
    compare(job("cluster.scale_timeout=30"), cluster)
    wanted, nothing = cluster.asked
    assert sum(bundle.get("GPU", 0.0) for bundle in wanted) == 3
    assert nothing == []
