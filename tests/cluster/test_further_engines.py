"""When places for further engines are asked for, taken and given back; the cluster's placement is the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayalign.cluster import further_engines
from rayalign.cluster.further_engines import FurtherEngines
from rayalign.cluster.placement import Claim
from rayalign.errors import LostError
from rayalign.storage.events import EventLog


class Group:
    """A placement group that is ready when the cluster has room."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def wait(self, timeout_seconds: float) -> bool:
        return self in self._cluster.groups[: self._cluster.room]


class Cluster:
    def __init__(self) -> None:
        self.room = 0
        self.groups: list[Group] = []

    def place(self, bundles: list[dict[str, float]]) -> Group:
        assert bundles == [{"CPU": 2.0, "GPU": 1.0}]
        self.groups.append(Group(self))
        return self.groups[-1]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(further_engines, "placement_group", made.place)
    monkeypatch.setattr(further_engines, "remove_placement_group", made.groups.remove)
    monkeypatch.setattr(further_engines, "PlacementGroupSchedulingStrategy", lambda group, **_: group)
    return made


@pytest.fixture
def further(cluster: Cluster, events: EventLog) -> FurtherEngines:
    names = iter("abcdef")

    def start(options: dict[str, Any]) -> str:
        assert (options["num_cpus"], options["num_gpus"]) == (2.0, 1.0)
        assert options["runtime_env"]["env_vars"]["VLLM_X"] == "1"
        return next(names)

    return FurtherEngines(2, Claim(2.0, 1.0, 1), {"VLLM_X": "1"}, start, events)


def test_all_missing_places_are_asked_for_and_engines_start_where_there_is_room(
    cluster: Cluster, further: FurtherEngines
) -> None:
    assert further.fill() == [] and len(cluster.groups) == 2
    cluster.room = 1
    assert further.fill() == ["a"] and len(cluster.groups) == 2
    cluster.room = 2
    assert further.fill() == ["b"] and further.actors == ["a", "b"]
    assert further.fill() == [] and len(cluster.groups) == 2, "not more than the job allows"


def test_the_place_of_an_engine_that_died_is_asked_for_anew(
    cluster: Cluster,
    further: FurtherEngines,
    caplog: pytest.LogCaptureFixture,
    logged: Callable[[str], list[dict[str, Any]]],
) -> None:
    cluster.room = 2
    further.fill()
    further.lose("a", LostError("generator (pid 7) died\nlast log lines:\n..."))
    assert caplog.messages == [
        "generator (pid 7) died; the others write its candidates, and room for another one is requested"
    ]
    (event,) = logged("actor_lost")
    assert (event["role"], event["reason"]) == ("generator", "generator (pid 7) died")
    assert event["replaced"] is False, "another one starts once there is room"
    assert "a" not in further and "b" in further and len(cluster.groups) == 1
    cluster.room = 1
    assert further.fill() == [] and len(cluster.groups) == 2
    cluster.room = 2
    assert further.fill() == ["c"]


def test_nothing_is_left_of_what_was_asked_for(cluster: Cluster, further: FurtherEngines) -> None:
    cluster.room = 1
    further.fill()
    further.ask_no_more()
    assert len(cluster.groups) == 1, "the place of the engine that works"
    further.stop()
    assert cluster.groups == [] and further.actors == []
