"""The progress of a stage and of its run on the console."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_SHOWN = {
    "reward/mean": "reward {:.3f}",
    "kl/reference": "KL {:.4f}",
    "eval/loss": "held-out loss {:.4f}",
    "learner/learning_rate": "learning rate {:.2g}",
    "rollout/tokens_per_second": "{:.0f} tokens/s",
}
LOSS = "loss/"
"""area of the losses"""


@dataclass(frozen=True, slots=True)
class Later:
    """The time of the stages that come after one [s]."""

    seconds: float = 0.0
    is_whole: bool = True
    """False: a stage of a kind that has not finished yet is among them, so that they take longer"""

    def total(self, own_seconds: float) -> str:
        """The time left of a run whose present stage has `own_seconds` left."""
        sign = "" if self.is_whole else "over "
        return f"{sign}{duration(own_seconds + self.seconds)}"


def duration(seconds: float) -> str:
    """Seconds for people, as minutes:seconds or hours:minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class ConsoleSink:
    """A progress line: step, losses, reward, KL, tokens/s, slowest phase, time left of the stage and of the run.

    Without a terminal it prints a line now and then.

    Args:
        total: steps of the stage; None: unknown.
        later: the stages that come after it.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        console: Console | None = None,
        *,
        later: Later | None = None,
        every: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._total, self._every, self._clock = title, total, every, clock
        self._later = later or Later()
        self._console = console or Console(stderr=True)
        self._first: tuple[int, float] | None = None
        self._printed, self._pending = float("-inf"), ""
        self._bar = Progress(
            BarColumn(bar_width=24), TextColumn("{task.description}", markup=False), console=self._console
        )
        self._task = self._bar.add_task(title, total=total)
        if self._console.is_terminal:
            self._bar.start()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show one step."""
        now = self._clock()
        self._first = self._first or (step, now)
        self._pending = self._line(step, metrics, now)
        if self._console.is_terminal:
            self._bar.update(self._task, completed=step, description=self._pending)
        elif now - self._printed >= self._every:
            self._print(now)

    def close(self) -> None:
        """Leave the last step on the screen."""
        if self._console.is_terminal:
            self._bar.stop()
        elif self._pending:
            self._print(self._clock())

    def _print(self, now: float) -> None:
        self._console.print(self._pending, soft_wrap=True, markup=False, highlight=False)
        self._printed, self._pending = now, ""

    def _line(self, step: int, metrics: Mapping[str, float], now: float) -> str:
        parts = [self._title, f"{step}/{self._total}" if self._total else str(step)]
        parts += [f"loss {value:.4f}" for value in _only_loss(metrics)]
        parts += [text.format(metrics[name]) for name, text in _SHOWN.items() if name in metrics]
        return "  ".join([*parts, *_slowest(metrics), *self._left(step, now)])

    def _left(self, step: int, now: float) -> list[str]:
        """Time left, by the pace since the first step of this process."""
        first, since = self._first or (step, now)
        if not self._total or not first < step < self._total:  # dropped groups add a few steps
            return []
        seconds = (now - since) / (step - first) * (self._total - step)
        of_stage = f"{duration(seconds)} left"
        is_last = self._later == Later()
        return [of_stage if is_last else f"{of_stage}, of the run {self._later.total(seconds)}"]


def _only_loss(metrics: Mapping[str, float]) -> list[float]:
    """The loss of a stage that trains one role offline, whose reward says nothing of its progress."""
    if "reward/mean" in metrics:
        return []
    losses = [value for name, value in metrics.items() if name.startswith(LOSS)]
    return losses[:1]


def _slowest(metrics: Mapping[str, float]) -> list[str]:
    phases = phase_seconds(metrics)
    if len(phases) < 2:
        return []
    slowest = max(phases, key=lambda phase: phases[phase])
    return [f"mostly {slowest} ({phases[slowest]:.1f} s)"]


def phase_seconds(metrics: Mapping[str, float]) -> dict[str, float]:
    """The seconds of each phase of a step, without their total."""
    phases = {name.removeprefix("phase/"): value for name, value in metrics.items() if name.startswith("phase/")}
    phases.pop("total", None)
    return phases
