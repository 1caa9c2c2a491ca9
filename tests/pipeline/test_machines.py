"""What a stage that has lost something waits for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rayalign.errors import InputError
from rayalign.pipeline import machines
from rayalign.pipeline.machines import Machines


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    monkeypatch.setattr(machines, "await_lost_machines", lambda: seen.append("lost machines"))
    monkeypatch.setattr(machines, "refuse", lambda loaded, problems: seen.append("folders"))
    return seen


def machines_of(waits: list[str], refusal: str | None = None) -> Machines:
    """Machines of a cluster that grows, or refuses to."""

    def wait_for(name: str) -> None:
        waits.append(f"room for {name}")
        if refusal is not None:
            raise InputError(refusal)

    made: Any = Machines.__new__(Machines)
    made._loaded = None
    made._growth = SimpleNamespace(wait_for=wait_for)
    made._folders = SimpleNamespace(problems=list)
    made._watches = SimpleNamespace(extend=lambda: None)
    result: Machines = made
    return result


def test_a_stage_waits_until_lost_machines_are_counted_out_and_then_for_room(waits: list[str]) -> None:
    machines_of(waits).await_again("ppo", whole=True)
    assert waits == ["lost machines", "room for ppo", "folders"]


def test_a_stage_that_goes_on_with_fewer_ranks_waits_for_no_room(waits: list[str]) -> None:
    machines_of(waits).await_again("base", whole=False)
    assert waits == ["lost machines", "folders"]


def test_a_cluster_that_does_not_grow_ends_no_stage_that_has_lost_something(
    waits: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    machines_of(waits, "needs 2 CPU, has 1 CPU").await_again("ppo", whole=True)
    assert waits[-1] == "folders"
    assert "has 1 CPU; ppo starts again with the machines that are there" in caplog.text
