"""What interrupted a run: actors that were lost, stages that started again, returns after a guard fired."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rayalign.storage.report_table import html_table

Row = Mapping[str, Any]


def events_table(events: Sequence[Row]) -> str:
    """A line for each interruption, in order; nothing where there was none."""
    lines: list[list[str]] = []
    for event in events:
        described = _DESCRIBED.get(event["event"])
        if described is not None:
            when = f"{datetime.fromtimestamp(event['time']):%Y-%m-%d %H:%M:%S}"
            lines.append([when, event.get("stage") or event["role"], described(event), event["reason"]])
    return f"<h2>Interruptions</h2>{html_table(['time', 'where', 'what', 'why'], lines)}" if lines else ""


def _lost(event: Row) -> str:
    return "lost and replaced" if event["replaced"] else "lost"


def _rolled_back(event: Row) -> str:
    rate = f", learning rate times {event['rate']:g}" if event["rate"] != 1.0 else ""
    return f"went back to {event['to']}, with other samples{rate}; {event['left']} more times may follow"


_DESCRIBED: Mapping[str, Callable[[Row], str]] = {
    "actor_lost": _lost,
    "stage_restarted": lambda event: f"started again; {event['left']} more times may follow",
    "rolled_back": _rolled_back,
}
