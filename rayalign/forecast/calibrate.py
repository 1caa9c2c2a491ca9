"""From a finished run to calibration records of the machines that it ran on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from rayalign.config import Job
from rayalign.forecast.calibration import Record
from rayalign.forecast.fits import job_on
from rayalign.forecast.hardware import Hardware
from rayalign.forecast.iteration import iteration_work
from rayalign.forecast.measured import MeasuredStage, measured_run
from rayalign.forecast.seconds import ideal_seconds
from rayalign.forecast.timing import largest_model, role_precisions, working_actors
from rayalign.pipeline.kind import kind_of
from rayalign.pipeline.plan import StagePlan, plan

SHORTEST = 1e-3
"""phases below it are not recorded: they wait for nothing [s]"""


def records_of(folder: Path, hardware: Hardware, *, local: bool = False) -> list[Record]:
    """One record for each phase of each online stage of a run.

    Raises:
        InputError: there is no run, or it has too few iterations.
    """
    run = measured_run(folder)
    job = job_on(run.job, hardware, local=local)
    day = time.strftime("%Y-%m-%d", time.gmtime((folder / "job.yaml").stat().st_mtime))
    plans = {stage.name: stage for stage in plan(job, None if local else hardware.total).stages}
    records: list[Record] = []
    for measured in run.stages:
        source = f"{job.name}/{measured.name}, {measured.iterations} iterations, {day}"
        records += _stage_records(job, measured, plans[measured.name], hardware, source)
    return records


def _stage_records(
    job: Job, measured: MeasuredStage, stage_plan: StagePlan, hardware: Hardware, source: str
) -> Iterator[Record]:
    kind = kind_of(measured.stage).training
    assert kind is not None, "only trainings are measured"
    work = iteration_work(job, kind, stage_plan, measured.lengths)
    if work is None:
        return
    ideals = ideal_seconds(work, stage_plan, hardware, role_precisions(job, kind))
    for phase, ideal in ideals.items():
        seconds = measured.seconds[phase]
        # Overlapped with training, the engines have written before anybody waits for them.
        is_hidden = phase == "generate" and measured.stage.max_staleness > 0
        if seconds < SHORTEST or is_hidden:
            continue
        yield Record(
            device=hardware.calibrated_by,
            phase=phase,
            share=ideal.seconds / seconds,
            parameters=largest_model(job, kind, work[phase]),
            actors=working_actors(stage_plan, work[phase]),
            prompt=measured.lengths.prompt,
            answer=measured.lengths.answer,
            data=measured.stage.data.format,
            source=source,
        )
