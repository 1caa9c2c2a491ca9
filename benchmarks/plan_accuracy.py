"""How far forecasts are from finished runs: each online stage from the records of all other stages, and main memory.

`python -m benchmarks.plan_accuracy RUN...` reads runs that finished on this machine. No record of a stage is used for
its own forecast, neither its speed nor its lengths. `spread` says how much the iterations of one stage differ among
themselves: no forecast can be nearer than that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.record import record
from rayalign.forecast.calibrate import records_of
from rayalign.forecast.calibration import Calibration, Record
from rayalign.forecast.forecast import forecast
from rayalign.forecast.hardware import Hardware, this_hardware
from rayalign.forecast.measured import WARM_UP, MeasuredRun, MeasuredStage, measured_run
from rayalign.forecast.prompts import prompt_lengths

LIMIT = 0.25


def stage_row(
    run: MeasuredRun, measured: MeasuredStage, folder: Path, calibration: Calibration, prompts: dict[str, float]
) -> dict[str, Any]:
    """Forecast and measurement of one stage's iteration."""
    outcome = forecast(run.job, this_hardware(), calibration, local=True, prompts=prompts)
    (stage,) = [stage for stage in outcome.stages if stage.name == measured.name]
    seconds = stage.seconds
    phases = {}
    for name, time in stage.phases.items():
        phases[name] = {"measured": measured.seconds[name], "forecast": time.seconds.middle}
    return {
        "run": run.job.name,
        "stage": measured.name,
        "algorithm": measured.stage.algorithm["name"],
        "measured": measured.iteration,
        "low": seconds.low,
        "forecast": seconds.middle,
        "high": seconds.high,
        "error": seconds.middle / measured.iteration - 1,
        "inside": seconds.low <= measured.iteration <= seconds.high,
        "spread": spread(folder / "stages" / measured.name / "metrics.jsonl"),
        "phases": phases,
    }


def without(records: Sequence[Record], run: str, stage: str) -> Calibration:
    """All records but those of one stage."""
    return Calibration([each for each in records if not each.source.startswith(f"{run}/{stage},")])


def spread(metrics: Path) -> float:
    """Half the distance of the quartiles of an iteration's seconds, over their median."""
    totals = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)["metrics"]
        if "phase/total" in row:
            totals.append(row["phase/total"] - row.get("phase/checkpoint", 0.0))
    ordered = sorted(totals[WARM_UP:])
    quarter = len(ordered) // 4
    return (ordered[-1 - quarter] - ordered[quarter]) / 2 / median(ordered)


def memory_row(run: MeasuredRun, hardware: Hardware) -> dict[str, Any]:
    """Forecast and measured peak of the main memory of a run."""
    outcome = forecast(run.job, hardware, Calibration([]), local=True)
    expected = max(stage.memory for stage in outcome.plan.stages)
    peak = run.peak_memory
    assert peak is not None, "the run has not finished"
    return {"run": run.job.name, "measured": peak, "forecast": expected, "error": expected / peak - 1}


def main() -> None:
    """Forecast every stage of the given runs."""
    hardware = this_hardware()
    folders = [Path(name) for name in sys.argv[1:]]
    runs = {folder: measured_run(folder) for folder in folders}
    records: list[Record] = []
    for folder in folders:
        records += records_of(folder, hardware, local=True)
    rows = []
    for folder, run in runs.items():
        prompts = prompt_lengths(run.loaded)
        for measured in run.stages:
            others = without(records, run.job.name, measured.name)
            rows.append(stage_row(run, measured, folder, others, prompts))
    memory = [memory_row(run, hardware) for run in runs.values() if run.peak_memory is not None]
    figures = {
        "limit": LIMIT,
        "hardware": hardware.calibrated_by,
        "within_limit": sum(abs(row["error"]) <= LIMIT for row in rows) / len(rows),
        "inside_range": sum(row["inside"] for row in rows) / len(rows),
        "median_error": median(abs(row["error"]) for row in rows),
        "memory_within_limit": sum(abs(row["error"]) <= LIMIT for row in memory) / max(1, len(memory)),
        "iterations": rows,
        "memory": memory,
    }
    record("plan", figures)


if __name__ == "__main__":
    main()
