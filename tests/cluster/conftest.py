"""An event log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rayalign.storage.events import EventLog


@pytest.fixture(scope="module")
def events_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("events") / "events.jsonl"


@pytest.fixture(scope="module")
def events(events_path: Path) -> Iterator[EventLog]:
    log = EventLog(events_path)
    yield log
    log.close()


@pytest.fixture
def logged(events_path: Path) -> Callable[[str], list[dict[str, Any]]]:
    """Reads the events of one kind."""

    def read(kind: str) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in events_path.read_text().splitlines()]
        return [row for row in rows if row["event"] == kind]

    return read
