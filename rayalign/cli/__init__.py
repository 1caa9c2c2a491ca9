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

from rayalign.cli import (
    annotator,
    answer,
    arena_hard,
    clean,
    compare,
    evaluate,
    export,
    head_to_head,
    init,
    jobs,
    measure,
    merge,
    model,
    mt_bench,
    rehearse,
    results,
    serve_policy,
)
from rayalign.errors import InputError, RayalignError

if TYPE_CHECKING:
    from rich.table import Table

    from rayalign.config import LoadedJob
    from rayalign.pipeline.plan import Plan, RolePlan, StagePlan


class _Commands(TyperGroup):
    """Prints rayalign's errors on stderr and exits with a code; other errors are defects and keep their traceback."""

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
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(requested: bool) -> None:
    if requested:
        import rayalign

        typer.echo(f"rayalign {rayalign.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Align language models with human feedback, from a laptop to a GPU cluster."""


app.add_typer(evaluate.app, name="evaluate")
app.add_typer(model.app, name="model")
app.add_typer(jobs.app, name="jobs")
evaluate.app.command("head-to-head")(head_to_head.head_to_head)
evaluate.app.command("mt-bench")(mt_bench.mt_bench)
evaluate.app.command("arena-hard")(arena_hard.arena_hard)
for command in (measure.judge, measure.perplexity, measure.reward, measure.frontier):
    evaluate.app.command()(command)

JobFile = Annotated[Path, typer.Argument(help="A job file (YAML).", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace the file's: seed=3.")
]


@app.command()
def run(
    job: JobFile,
    overrides: Overrides = None,
    seeds: Annotated[
        str | None, typer.Option(help="Run once with each, then print one table: 0,1,2.", show_default=False)
    ] = None,
) -> None:
    """Run a job or resume it: stages that finished and did not change are kept."""
    logger = logging.getLogger("rayalign")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
    if seeds is None:
        _run_one(job, overrides or [])
    else:
        compare.run_seeds(job, overrides or [], compare.numbers_in(seeds), _run_one)


def _run_one(job: Path, overrides: list[str]) -> Path:
    """The folder of the finished run."""
    import rayalign

    loaded = _checked(job, overrides)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is a Ctrl-C
    folder = rayalign.run(loaded)
    results.show_results(folder)
    typer.echo(f"report: {folder / 'report.html'}")
    return folder


@app.command()
def check(job: JobFile, overrides: Overrides = None) -> None:
    """Report what is wrong with a job, else print what it would do; nothing is started."""
    _checked(job, overrides)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="The folder of a run.", show_default=False)]) -> None:
    """Write report.html of a run that is finished or still running."""
    import rayalign

    if not run.is_dir():
        raise InputError(f"{run}: there is no such run folder")
    typer.echo(rayalign.write_report(run))


@app.command()
def doctor() -> None:
    """List what is installed, what is missing, and what conflicts (exit code 1)."""
    from rayalign.pipeline.doctor import examine

    findings = examine()
    for finding in findings:
        typer.echo(f"{finding.level:<9} {finding.text}")
    raise typer.Exit(any(finding.level == "conflict" for finding in findings))


@app.command()
def schema() -> None:
    """Print the JSON schema of a job file, for editors."""
    from rayalign.config import WrittenJob

    typer.echo(json.dumps(WrittenJob.model_json_schema(), indent=2))


app.command()(jobs.submit)
app.command()(annotator.serve)
app.command()(serve_policy.serve_policy)
app.command()(annotator.token)
app.command()(annotator.annotate)
app.command("fit-human")(measure.fit_human)
app.command()(merge.merge)
app.command()(export.export)
app.command()(init.init)
app.command()(answer.chat)
app.command()(answer.generate)
app.command()(compare.compare)
app.command()(clean.clean)
app.command()(rehearse.rehearse)


def main() -> None:
    """Entry point of the `rayalign` command."""
    app()


def _complain(message: str) -> None:
    for line in message.splitlines():
        typer.echo(f"rayalign: {line}", err=True)


def _checked(job: Path, overrides: list[str] | None) -> LoadedJob:
    """The checked job; prints its plan."""
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
        if stage.rows:
            console.print(f"  data: {stage.rows}", soft_wrap=True)
        if stage.roles:
            console.print(_table(stage))
        if stage.shared:
            console.print(f"  {_turns(stage)}; a device has {size(plan.device_bytes)}")
    console.print("\n* trained; sizes are estimates")
    machine = plan.machine
    available = "the cluster's"
    if machine:
        available = f"{machine.cpus:g} cores, {size(machine.memory)}, {machine.gpus} GPUs"
    largest = max(plan.stages, key=lambda stage: stage.memory)
    console.print(f"{name}: about {size(largest.memory)} of main memory at most; this machine: {available}")
    processes = size(largest.processes)
    console.print(f"{processes} of it for the processes themselves: interpreters, libraries, Ray")
    for warning in plan.warnings:
        console.print(f"warning: {warning}", soft_wrap=True)


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
