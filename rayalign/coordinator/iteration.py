"""What the online loop itself reports of one iteration: times, weight transfer, rollout.

This module needs neither Ray nor torch, so that the checks before a run can read its names.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import mean

from rayalign.storage.events import EventLog
from rayalign.types import Group

PHASES = ("generate", "collate", "turn", "evaluate", "prepare", "update", "publish", "journal", "checkpoint")
METRICS = frozenset(
    [
        *(f"phase/{name}" for name in (*PHASES, "unattributed", "total")),
        *(f"publish/{name}" for name in ("seconds", "bytes", "probe_gap", "restarted")),
        *(f"rollout/{name}" for name in ("tokens", "tokens_per_second", "entropy", "staleness", "mixed", "absent")),
        *(f"rollout/{name}" for name in ("rejected", "dropped", "late")),
    ]
)
"""names that guards can watch whatever the algorithm"""


class PhaseClock:
    """Times the named phases of one iteration from `start`, the end of the one before, whose report is in between."""

    def __init__(self, events: EventLog, iteration: int, start: float) -> None:
        self._events = events
        self._iteration = iteration
        self._start = start
        self._phases: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Attribute what runs inside to `name`, one of `PHASES`."""
        assert name in PHASES, f"{name} is missing in PHASES"
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._phases[name] = self._phases.get(name, 0.0) + seconds
            self._events.write("phase", name=name, seconds=seconds, iteration=self._iteration)

    def metrics(self, end: float) -> dict[str, float]:
        """`phase/<name>` in seconds, with `phase/unattributed` and `phase/total`."""
        total = end - self._start
        rest = total - sum(self._phases.values())
        times = {**self._phases, "unattributed": rest, "total": total}
        return {f"phase/{name}": seconds for name, seconds in times.items()}


def publish_metrics(seconds: float, size: int, gap: float, restarted: int) -> dict[str, float]:
    """Of one weight transfer: its time, its bytes, the largest gap of an engine to the probe [nats], and answers that
    engines write anew.
    """
    figures = {"seconds": seconds, "bytes": size, "probe_gap": gap, "restarted": restarted}
    return {f"publish/{name}": value for name, value in figures.items()}


def part_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """`reward/<name>`: the mean of each part of the scores, over the samples for which it counts."""
    values: dict[str, list[float]] = {}
    for group in groups:
        for score in group.scores:
            for part in score.parts:
                if part.value is not None:
                    values.setdefault(f"reward/{part.name}", []).append(part.value)
    return {name: mean(numbers) for name, numbers in values.items()}


def rollout_metrics(iteration: int, groups: Sequence[Group], seconds: float) -> dict[str, float]:
    """Tokens that the policy wrote, how many versions the oldest of them lag, and how many candidates are absent.

    `rollout/mixed` are candidates that several versions wrote.
    `rollout/entropy` is an estimate for every algorithm, at no cost: the mean of `-log p` over tokens drawn from p.
    `seconds` is the iteration's time.
    """
    tokens, mixed, surprise = 0, 0, 0.0
    for group in groups:
        for trajectory in group.trajectories:
            tokens += len(trajectory.logprobs)
            mixed += trajectory.has_several_versions
            surprise -= sum(trajectory.logprobs)
    entropy = {"rollout/entropy": surprise / tokens} if tokens else {}
    return entropy | {
        "rollout/tokens": tokens,
        "rollout/tokens_per_second": tokens / seconds,
        "rollout/staleness": max(iteration - group.version for group in groups),
        "rollout/mixed": mixed,
        "rollout/absent": sum(len(group.absent) for group in groups),
    }
