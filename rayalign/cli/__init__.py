"""The command line. Each command imports what it needs, so that `--help` answers at once."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from rayalign.cli import annotator, evaluate, measure, merge, show
from rayalign.errors import InputError, RayalignError

if TYPE_CHECKING:
    from rich.table import Table

    from rayalign.config import LoadedJob
    from rayalign.pipeline.plan import Plan, RolePlan, StagePlan


class _Commands(TyperGroup):
    """Errors of the tree as lines on stderr and an exit code; anything else is a defect and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RayalignError as error:
            if os.environ.get("RAYALIGN_DEBUG"):
                raise
            _complain(str(error))
            raise typer.Exit(2 if isinstance(error, InputError) else 1) from error
        except KeyboardInterrupt as interrupt:
            _complain("interrupted; the same command goes on where this one stopped")
            raise typer.Exit(130) from interrupt


app = typer.Typer(
    cls=_Commands,
    help="Align language models with human feedback, from a laptop to a GPU cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(evaluate.app, name="evaluate")
for command in (measure.judge, measure.perplexity, measure.reward, measure.frontier):
    evaluate.app.command()(command)

JobFile = Annotated[Path, typer.Argument(help="A job file (YAML).", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values in the place of the file's: seed=3.")
]


@app.command()
def run(job: JobFile, overrides: Overrides = None) -> None:
    """Run a job, or go on with it: stages that finished and did not change are kept."""
    import rayalign

    logger = logging.getLogger("rayalign")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
    loaded = _checked(job, overrides)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is a Ctrl-C
    folder = rayalign.run(loaded)
    _show_results(folder)
    typer.echo(f"report: {folder / 'report.html'}")


@app.command()
def check(job: JobFile, overrides: Overrides = None) -> None:
    """Say what is wrong with a job, else what it would do; nothing is started."""
    _checked(job, overrides)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="The folder of a run.", show_default=False)]) -> None:
    """Write report.html of a run that is finished, or still going."""
    import rayalign

    if not run.is_dir():
        raise InputError(f"{run}: there is no such run folder")
    typer.echo(rayalign.write_report(run))


@app.command()
def doctor() -> None:
    """Say what is installed, what is missing, and what does not fit together (exit code 1)."""
    from rayalign.pipeline.doctor import examine

    findings = examine()
    for finding in findings:
        typer.echo(f"{finding.level:<9} {finding.text}")
    raise typer.Exit(any(f.level == "conflict" for f in findings))


@app.command()
def schema() -> None:
    """Print the JSON schema of a job file, for editors."""
    from rayalign.config import Job

    typer.echo(json.dumps(Job.model_json_schema(), indent=2))


app.command()(annotator.serve)
app.command()(annotator.token)
app.command()(annotator.annotate)
app.command("fit-human")(measure.fit_human)
app.command()(merge.merge)


def main() -> None:
    """Entry point of the `rayalign` command."""
    app()


def _complain(message: str) -> None:
    for line in message.splitlines():
        typer.echo(f"rayalign: {line}", err=True)


def _checked(job: Path, overrides: list[str] | None) -> LoadedJob:
    """A sound job, once its plan has been shown."""
    import rayalign

    loaded = rayalign.load_job(job, overrides or ())
    rayalign.check(loaded)
    _show(rayalign.plan(loaded.job), loaded.job.name)
    return loaded


def _show(plan: Plan, name: str) -> None:
    from rich.console import Console

    from rayalign.pipeline.plan import size

    console = Console(highlight=False)
    for stage in plan.stages:
        console.print(f"\n[bold]{stage.name}[/bold] ({stage.kind})  {stage.state}", soft_wrap=True)
        console.print(f"  {stage.batch}")
        if stage.roles:
            console.print(_table(stage))
    console.print("\n* trained; sizes are estimates")
    machine = plan.machine
    have = f"{machine.cpus:g} cores, {size(machine.memory)}, {machine.gpus} GPUs" if machine else "the cluster's"
    need = max(stage.memory for stage in plan.stages)
    console.print(f"{name}: about {size(need)} of main memory at most; this machine: {have}")
    for warning in plan.warnings:
        console.print(f"warning: {warning}", soft_wrap=True)


def _show_results(folder: Path) -> None:
    """The run's tables: each model's figures, what differs between them, and where the time went."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    figures = [(r["name"], r["metric"], _interval(r, "mean"), str(r["n"])) for r in summary["results"]]
    gaps = [
        (f"{c['a']} - {c['b']}", c["metric"], _interval(c, "mean_difference"), str(c["n"]))
        for c in summary["comparisons"]
    ]
    times = [
        (t["name"], t["status"], show.figure(t["fixed_seconds"]), show.figure(t["seconds"])) for t in summary["stages"]
    ]
    for headings, rows in (
        (("model", "metric", "mean and 95% interval", "n"), figures),
        (("paired difference", "metric", "mean and 95% interval", "n"), gaps),
        (("stage", "status", "fixed s", "total s"), times),
    ):
        if rows:
            show.table(headings, rows, words=2)
    typer.echo(f"peak memory of all processes: {summary['peak_memory_bytes'] / 2**30:.2f} GiB")


def _interval(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.3g} [{row['low']:.3g}, {row['high']:.3g}]" if row["low"] is not None else f"{row[key]:.3g}"


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
    devices = dict.fromkeys(role.devices)
    shown = " ".join(devices) if len(devices) <= 2 else f"{role.devices[0]}..{role.devices[-1].rpartition(':')[2]}"
    name = f"{role.role}*" if role.trained else role.role
    return (name, role.model, str(role.actors), f"{role.cpus:.2g}", str(role.threads), count, memory, shown)


def _short(number: int) -> str:
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f}{unit}"
    return str(number)
