"""Sinks of metrics: JSONL always; console, TensorBoard and Weights & Biases as the job says."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rayalign.config import TrackingConfig
from rayalign.storage.console import ConsoleSink
from rayalign.storage.dialogues import dialogue_fields
from rayalign.storage.records import Appender, finite, read_jsonl
from rayalign.types import Group, Metrics, merged

_TAIL = 1 << 16
"""bytes at the end of a file that hold its last row"""


class MetricSink(Protocol):
    """Receives the metrics of each step."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of one step, by name `area/name`; after a resume a step may repeat."""

    def close(self) -> None:
        """Flush and close."""


def reduce(metrics: Sequence[Metrics]) -> dict[str, float]:
    """The values of `merged` observations."""
    return {name: metric.value for name, metric in merged(metrics).items()}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl by step, also while it grows; the later value of a metric written twice at a step."""
    rows: dict[int, dict[str, Any]] = {}
    for row in read_jsonl(path, growing=True):
        before = rows.get(row["step"], {"metrics": {}})
        rows[row["step"]] = {**row, "metrics": before["metrics"] | row["metrics"]}
    return [rows[step] for step in sorted(rows)]


def last_row(path: Path) -> dict[str, Any] | None:
    """The last complete row of a metrics.jsonl while it grows, read from its end; None where there is none yet."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        *_, before, _ = [b"", b"", *file.read().split(b"\n")]
    row: dict[str, Any] | None = json.loads(before) if before.startswith(b"{") else None
    return row


class JsonlSink(Appender):
    """Rows {"step", "time", "metrics"}; a number that is not finite becomes null."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one row."""
        values = finite({name: float(value) for name, value in metrics.items()})
        self.append({"step": step, "time": time.time(), "metrics": values})


class SampleTable(Appender):
    """Appends rows {iteration, messages, prompt, answer, turns, score, finish} to samples.jsonl."""

    def write(self, iteration: int, groups: Sequence[Group]) -> None:
        """The first candidate of each group."""
        for group in groups:
            first = group.trajectories[0]
            self.append(
                {
                    "iteration": iteration,
                    **dialogue_fields(group.prompt, first),
                    "score": group.scores[0].value if group.scores else None,
                    "finish": first.finish_reason,
                }
            )


class TensorBoardSink:
    """Event files for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a scalar for each metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class WandbSink:
    """A run at Weights & Biases, continued after a resume; WANDB_MODE=offline keeps it under the folder."""

    def __init__(self, project: str, run_name: str, folder: Path, config: Mapping[str, Any] | None = None) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        identity = folder / "wandb-id"
        if not identity.exists():
            identity.write_text(uuid.uuid4().hex)
        self._run = wandb.init(
            project=project,
            name=run_name,
            id=identity.read_text(),
            resume="allow",
            dir=str(folder),
            config=dict(config or {}),
        )
        # a step axis of our own, since wandb's refuses steps that a resumed run makes again
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one step."""
        self._run.log({**metrics, "step": step})

    def close(self) -> None:
        """Finish the run and its upload."""
        self._run.finish()


class MultiSink:
    """Writes to several sinks."""

    def __init__(self, sinks: Sequence[MetricSink]) -> None:
        self._sinks = tuple(sinks)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write to each."""
        for sink in self._sinks:
            sink.write(step, metrics)

    def close(self) -> None:
        """Close each."""
        for sink in self._sinks:
            sink.close()


def open_sinks(
    tracking: TrackingConfig, folder: Path, run_name: str, config: Mapping[str, Any], *console: ConsoleSink
) -> MetricSink:
    """The sinks of one stage, with their files in `folder`."""
    sinks: list[MetricSink] = [JsonlSink(folder / "metrics.jsonl"), *console]
    if tracking.tensorboard:
        sinks.append(TensorBoardSink(folder / "tensorboard"))
    if tracking.wandb:
        sinks.append(WandbSink(tracking.wandb, run_name, folder, config))
    return MultiSink(sinks)
