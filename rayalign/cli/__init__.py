"""The command line. Each command imports what it needs, so that `--help` answers at once."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
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
    plan,
    rehearse,
    results,
    schema,
    serve_policy,
)
from rayalign.errors import InputError, RayalignError

if TYPE_CHECKING:
    from rayalign.config import LoadedJob


class _Commands(TyperGroup):
    """Prints rayalign's errors on stderr and exits with a code; other errors are defects and keep their traceback.

    A full disk is no defect, whichever command met it.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RayalignError as error:
            if os.environ.get("RAYALIGN_DEBUG"):
                raise
            _complain(str(error))
            raise typer.Exit(2 if isinstance(error, InputError) else 1) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt as interrupt:
            _complain("interrupted; the same command goes on where this one stopped")
            raise typer.Exit(130) from interrupt
        except Exception as error:
            from rayalign.storage.space import comes_of_full_disk, full_disk_place

            if os.environ.get("RAYALIGN_DEBUG") or not comes_of_full_disk(error):
                raise
            _complain(f"no space left on {full_disk_place(error)}; free space, and give the same command again")
            raise typer.Exit(1) from error


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
    from rayalign.pipeline.working_copy import working_copy

    loaded = rayalign.load_job(job, overrides)
    with working_copy(loaded) as local:
        _check(local)
        folder = rayalign.run(local)
        results.show_results(folder)
    typer.echo(f"report: {_report_place(loaded, folder)}")
    return folder


@app.command()
def check(job: JobFile, overrides: Overrides = None) -> None:
    """Report what is wrong with a job, else print what it would do; nothing is started."""
    import rayalign

    _check(rayalign.load_job(job, overrides or ()))


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


app.command()(schema.schema)
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
app.command()(plan.plan)


def main() -> None:
    """Entry point of the `rayalign` command."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is a Ctrl-C
    app()


def _complain(message: str) -> None:
    for line in message.splitlines():
        typer.echo(f"rayalign: {line}", err=True)


def _check(loaded: LoadedJob) -> None:
    """Check a job and print its plan."""
    import rayalign

    rayalign.check(loaded)
    plan.show_plan(rayalign.plan(loaded.job), loaded.job.name)


def _report_place(loaded: LoadedJob, folder: Path) -> str:
    from rayalign.storage.remote import is_url, join

    output = loaded.job.output
    return join(output, loaded.job.name, "report.html") if is_url(output) else str(folder / "report.html")
