"""What Python code calls. Each function takes a job in any form: loaded, as the path of its file, or as a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rayalign.config import Job, LoadedJob, job_from_mapping, load_job
from rayalign.errors import InputError
from rayalign.pipeline.outputs import run_folder

if TYPE_CHECKING:
    from rayalign.pipeline.plan import Plan

GivenJob: TypeAlias = LoadedJob | str | Path | Mapping[str, Any]


def check(job: GivenJob) -> None:
    """Prove what needs no start, no model and no network; of local data the first rows.

    Raises:
        InputError: one line for each problem.
    """
    from rayalign.pipeline.checks import check as check_job

    check_job(_loaded(job))


def plan(job: GivenJob | Job) -> Plan:
    """What the job would do here: roles on devices, sizes, batch arithmetic, and which stages will run."""
    from rayalign.pipeline.plan import plan as plan_job

    return plan_job(job if isinstance(job, Job) else _loaded(job).job)


def run(job: GivenJob) -> Path:
    """Run the job or resume it; the folder of its outputs, with summary.json and report.html.

    Raises:
        RayalignError: a stage failed; the same call goes on from there.
    """
    from rayalign.pipeline.runner import run as run_job

    return run_job(_loaded(job))


def write_report(run: GivenJob) -> Path:
    """Write report.html of a run, finished or still running; its path.

    Args:
        run: the run's folder, or its job.
    """
    from rayalign.storage.report import write_report as write

    if isinstance(run, str | Path) and Path(run).is_dir():
        return write(Path(run))
    return write(run_folder(_loaded(run).job))


def _loaded(job: Any) -> LoadedJob:
    if isinstance(job, LoadedJob):
        return job
    if isinstance(job, Mapping):
        return job_from_mapping(job)
    if isinstance(job, str | Path):
        return load_job(job)
    raise InputError(f"a job is a LoadedJob, the path of a job file, or a mapping, not {type(job).__name__}")
