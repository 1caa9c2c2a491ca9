"""What a run was: its state, its time, and the software and machine that it ran on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from rayalign.storage.console import duration
from rayalign.storage.events import RUN_STARTED

Row = Mapping[str, Any]


def header(
    name: str, job: Mapping[str, Any], stages: Sequence[Row], summary: Mapping[str, Any], events: Sequence[Row]
) -> str:
    """The head of the page."""
    finished = sum(stage["status"] == "finished" for stage in stages)
    all_finished = stages and finished == len(stages)
    facts = ["finished" if all_finished else f"not finished: {finished} of {len(stages)} stages"]
    facts.append(f"seed {job.get('seed', '–')}")
    if events:
        facts.append(f"started {datetime.fromtimestamp(events[0]['time']):%Y-%m-%d %H:%M}")
    facts.append(f"reported {datetime.now():%Y-%m-%d %H:%M}")
    seconds = [stage["seconds"] for stage in stages if stage["seconds"] is not None]
    if seconds:
        facts.append(f"{duration(sum(seconds))} for all stages that finished")
    if summary.get("peak_memory_bytes"):
        facts.append(f"peak memory {summary['peak_memory_bytes'] / 2**30:.1f} GiB")
    return f"<h1>{escape(name)}</h1>{_line(facts)}{_environments(events)}"


def _environments(events: Sequence[Row]) -> str:
    """Machine, versions and commit of every start of the run, each once."""
    starts = [event for event in events if event["event"] == RUN_STARTED]
    lines = [_line(_environment(event)) for event in starts]
    return "".join(dict.fromkeys(lines))


def _environment(event: Row) -> list[str]:
    machine = event["machine"]
    facts = [f"{machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}"]
    facts += machine["gpus"]
    facts += [f"{name} {version}" for name, version in event["versions"].items()]
    if event["commit"]:
        facts.append(f"commit {event['commit']}")
    return facts


def _line(facts: Sequence[str]) -> str:
    return f'<p class="soft">{escape(" · ".join(facts))}</p>'
