"""The command `plan`, and the plan as `check` and `run` print it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayalign.cli import show
from rayalign.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from rayalign.config import Job, LoadedJob
    from rayalign.forecast.calibration import Calibration
    from rayalign.forecast.forecast import Forecast
    from rayalign.forecast.hardware import Hardware
    from rayalign.pipeline.plan import Plan, RolePlan, StagePlan


def plan(
    job: Annotated[Path, typer.Argument(help="A job file (YAML).", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace the file's: seed=3.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="A cluster file, or local: forecast time and cost there.", show_default=False),
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(help="The folder of a run that finished there, to learn its speed from.", show_default=False),
    ] = None,
) -> None:
    """Say whether a job fits, what an iteration and the run will take and cost, and how to divide the devices."""
    import rayalign

    loaded = rayalign.load_job(job, overrides or ())
    if cluster is None and not calibrate:
        rayalign.check(loaded)
        planned = rayalign.plan(loaded.job)
        show_plan(planned, loaded.job.name)
        show_memory(planned)
        return
    sizes, local = _hardware(cluster)
    _learn(calibrate or [], sizes[0], local=local)
    _forecast(loaded, sizes, local=local)


def _hardware(cluster: str | None) -> tuple[list[Hardware], bool]:
    """The machines in each size that they may have, and whether they are this one."""
    from rayalign.config import load_cluster
    from rayalign.forecast.hardware import LOCAL, sizes_of, this_hardware

    if cluster in (None, LOCAL):
        return [this_hardware()], True
    return list(sizes_of(load_cluster(Path(str(cluster))), str(cluster))), False


def _learn(runs: list[Path], hardware: Hardware, *, local: bool) -> None:
    """Turn finished runs into calibration records of the machines."""
    from rayalign.forecast.calibrate import records_of
    from rayalign.forecast.calibration import add_records, own_file

    for run in runs:
        records = records_of(run, hardware, local=local)
        add_records(own_file(), records)
        typer.echo(f"calibrated {hardware.calibrated_by} on {run}: {len(records)} records in {own_file()}")


def _forecast(loaded: LoadedJob, sizes: list[Hardware], *, local: bool) -> None:
    import rayalign
    from rayalign.forecast.calibration import load_calibration
    from rayalign.forecast.fits import job_on
    from rayalign.forecast.forecast import forecast
    from rayalign.forecast.prompts import prompt_lengths

    calibration = load_calibration()
    rayalign.check(replace(loaded, job=job_on(loaded.job, sizes[-1], local=local)))
    prompts = prompt_lengths(loaded)
    outcomes = []
    for hardware in sizes:
        outcomes.append(forecast(loaded.job, hardware, calibration, local=local, prompts=prompts))
    outcome = next((each for each in outcomes if each.fits), outcomes[-1])
    show_plan(outcome.plan, loaded.job.name, outcome.hardware.name)
    show_memory(outcome.plan)
    _show_forecast(outcome, loaded.job, calibration, prompts)
    if len(outcomes) > 1:
        _show_sizes(outcomes, loaded.job, calibration, prompts)
    if not outcome.fits:
        raise InputError("\n".join(f"{misfit.stage}: {misfit.text}" for misfit in outcome.misfits))


def _show_forecast(outcome: Forecast, job: Job, calibration: Calibration, prompts: Mapping[str, float]) -> None:
    from rayalign.forecast import text
    from rayalign.forecast.splits import online_seconds, splits

    typer.echo(f"\n{job.name} on {outcome.hardware.name}: {text.verdict(outcome)}")
    show.table(text.HEADINGS, [text.stage_row(stage, outcome) for stage in outcome.stages], words=3)
    lines = [text.total_line(outcome)]
    for stage in outcome.stages:
        lines += text.phase_lines(stage)
    lines += text.split_lines(splits(job, outcome.hardware, calibration, prompts), online_seconds(outcome, job))
    lines += text.unknown_lines(outcome)
    lines += ["", "calibrated on:", *(f"  {line}" for line in text.calibration_lines(outcome))]
    for line in lines:
        typer.echo(line)


def _show_sizes(outcomes: list[Forecast], job: Job, calibration: Calibration, prompts: Mapping[str, float]) -> None:
    """One line for each number of machines, with the best division of its devices."""
    from rayalign.forecast import text
    from rayalign.forecast.splits import splits

    rows = []
    for outcome in outcomes:
        divisions = splits(job, outcome.hardware, calibration, prompts)
        best = divisions[0].forecast if divisions else outcome
        layout = str(divisions[0]) if divisions else "as the job is"
        rows.append((outcome.hardware.name, layout, *text.size_cells(best)))
    show.table(("machines", "best division", "fits", "whole time", "cost"), rows, words=3)


def show_plan(planned: Plan, name: str, where: str = "this machine") -> None:
    """Print the roles of each stage, their devices and memory."""
    from rich.console import Console

    from rayalign.pipeline.plan import size

    console = Console(highlight=False)
    for stage in planned.stages:
        console.print(f"\n[bold]{stage.name}[/bold] ({stage.kind})  {stage.state}", soft_wrap=True)
        console.print(f"  {stage.batch}")
        if stage.rows:
            console.print(f"  data: {stage.rows}", soft_wrap=True)
        if stage.roles:
            console.print(_table(stage))
        if stage.shared:
            console.print(f"  {_turns(stage)}; a device has {size(planned.device_bytes)}")
    console.print("\n* trained; sizes are estimates")
    machine = planned.machine
    available = "the cluster's"
    if machine:
        available = f"{machine.cpus:g} cores, {size(machine.memory)}, {machine.gpus} GPUs"
    largest = max(planned.stages, key=lambda stage: stage.memory)
    console.print(f"{name}: about {size(largest.memory)} of main memory at most; {where}: {available}")
    processes = size(largest.processes)
    console.print(f"{processes} of it for the processes themselves: interpreters, libraries, Ray")
    for warning in planned.warnings:
        console.print(f"warning: {warning}", soft_wrap=True)


def show_memory(planned: Plan) -> None:
    """Print the main memory of each stage, and the fullest of its devices."""
    from rayalign.pipeline.plan import size

    rows = []
    for stage in planned.stages:
        fullest = max(stage.device_memory.values(), default=0)
        least = "at least " if any(role.unsized for role in stage.roles) else ""
        device = f"{least}{size(fullest)}" if fullest else ""
        rows.append((stage.name, f"{least}{size(stage.memory)}", size(stage.processes), device))
    show.table(("stage", "main memory", "of it processes", "fullest device"), rows)


def _turns(stage: StagePlan) -> str:
    """What the fullest of its shared devices holds in each turn."""
    from rayalign.cluster.turns import TURNS
    from rayalign.pipeline.plan import size

    claims = [f"{turn} {size(max(stage.turn_memory(turn).values()))}" for turn in TURNS]
    return f"devices are shared: {', '.join(claims)}"


def _table(stage: StagePlan) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    for heading in ("role", "model", "actors", "cpus", "threads", "params", "memory", "device"):
        text = heading in ("role", "model", "device")
        table.add_column(heading, justify="left" if text else "right", no_wrap=heading != "model", overflow="fold")
    for role in stage.roles:
        table.add_row(*_cells(role))
    return table


def _cells(role: RolePlan) -> tuple[str, ...]:
    from rayalign.pipeline.plan import size

    count = "unknown" if role.parameters is None else _short(role.parameters)
    memory = "unknown" if role.memory is None else size(role.memory)
    devices = " ".join(dict.fromkeys(role.devices))
    if len(set(role.devices)) > 2:
        devices = f"{role.devices[0]}..{role.devices[-1].rpartition(':')[2]}"
    name = f"{role.role}*" if role.trained else role.role
    if role.within:
        name = f"{role.role} in {role.within}"
    return (name, role.model, str(role.actors), f"{role.cpus:.2g}", str(role.threads), count, memory, devices)


def _short(number: int) -> str:
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f}{unit}"
    return str(number)
