"""What of the answers stands in the event log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rayalign.cluster import traffic
from rayalign.cluster.traffic import Traffic
from rayalign.storage.events import EventLog


def test_answers_are_written_once_a_second_and_a_tensor_at_once(
    events: EventLog, logged: Callable[[str], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [100.0]
    monkeypatch.setattr(traffic.time, "monotonic", lambda: seconds[0])
    answers = Traffic("clerk", events)
    before = len(logged("received"))

    def rows() -> list[tuple[Any, ...]]:
        return [(row["role"], row["answers"], row["bytes"], row["tensor"]) for row in logged("received")[before:]]

    answers.note("first")
    assert rows() == [("clerk", 1, 0, False)]
    answers.note("second")
    seconds[0] += 0.5
    answers.note("third")
    assert len(rows()) == 1
    answers.note([torch.zeros(3)])
    assert rows()[1:] == [("clerk", 3, 12, True)]
    seconds[0] += 1.0
    answers.note("fifth")
    assert rows()[2:] == [("clerk", 1, 0, False)]
