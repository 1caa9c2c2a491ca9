"""`rayalign submit` and `rayalign jobs`: the same run on a cluster, from a machine that only reaches its dashboard."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayalign.errors import InputError

if TYPE_CHECKING:
    from rayalign.cluster.submission import JobClient, SubmittedJob

app = typer.Typer(help="List, follow and stop the jobs of a cluster.", no_args_is_help=True)

Address = Annotated[
    str,
    typer.Option(
        envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard: http://HEAD:8265.", show_default=False
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="As `submit` and `list` print it.", show_default=False)]


def submit(
    job: Annotated[Path, typer.Argument(help="A job file in or below this folder.", show_default=False)],
    address: Address,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace the file's.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Follow the log and return the job's exit code.")] = True,
    require_rehearsal: Annotated[
        bool, typer.Option("--require-rehearsal", help="Refuse a job that `rehearse` has not passed as it is.")
    ] = False,
) -> None:
    """Run a job on a cluster: send this folder (without what .gitignore names), start the run, follow its log."""
    from rayalign.cluster.submission import JobClient

    command = _command(job, overrides or [])
    unrehearsed = _unrehearsed(job, overrides or [])
    if unrehearsed and require_rehearsal:
        raise InputError(unrehearsed)
    client = JobClient(address)
    if unrehearsed:
        typer.echo(f"warning: {unrehearsed}", err=True)
    job_id = client.submit(command, Path.cwd(), {})
    typer.echo(f"submitted {job_id}: {command}")
    if wait:
        raise typer.Exit(_follow(client, job_id))
    typer.echo(f"follow it:  rayalign jobs logs {job_id} --follow --address {address}")


@app.command("list")
def list_jobs(address: Address) -> None:
    """The cluster's jobs, the newest last."""
    from rayalign.cli import show
    from rayalign.cluster.submission import JobClient

    rows = [_row(job) for job in JobClient(address).jobs()]
    show.table(("id", "status", "started", "minutes", "command"), rows, words=5)


@app.command()
def logs(
    job_id: JobId,
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job has ended.")] = False,
) -> None:
    """What a job has written; with --follow, until it has ended, and then its exit code."""
    from rayalign.cluster.submission import JobClient

    client = JobClient(address)
    if follow:
        raise typer.Exit(_follow(client, job_id))
    typer.echo(client.log(job_id), nl=False)


@app.command()
def stop(job_id: JobId, address: Address) -> None:
    """End a job as Ctrl-C would; the same `submit` goes on from there."""
    from rayalign.cluster.submission import JobClient

    stopped = JobClient(address).stop(job_id)
    typer.echo(f"{job_id} is stopping" if stopped else f"{job_id} had ended before")


def _command(job: Path, overrides: list[str]) -> str:
    """What the cluster runs in its copy of this folder.

    Raises:
        InputError: the job is wrong, or what it needs or makes would not outlive that copy.
    """
    from rayalign.config import load_job

    here = Path.cwd()
    if not job.resolve().is_relative_to(here):
        raise InputError(f"{job}: the cluster gets {here} alone, and this file is not below it; start in its folder")
    output = load_job(job, overrides).job.output
    if not Path(output).is_absolute():
        raise InputError(
            f"output {output!r} would be inside the cluster's copy of this folder, which ends with the job; "
            "add output=/FOLDER, one that all nodes see"
        )
    path = str(job.resolve().relative_to(here))
    return shlex.join(["rayalign", "run", path, *overrides])


def _unrehearsed(job: Path, overrides: list[str]) -> str | None:
    """Why a rehearsal of the job does not count, or that there is none; None where it went well."""
    from rayalign.config import load_job
    from rayalign.rehearsal.report import rehearsed

    return rehearsed(load_job(job, overrides).job)


def _follow(client: JobClient, job_id: str) -> int:
    """Print a job's log until it has ended; its exit code."""
    try:
        for text in client.follow(job_id):
            typer.echo(text, nl=False)
    except KeyboardInterrupt:
        typer.echo(f"\n{job_id} goes on; end it with: rayalign jobs stop {job_id} --address {client.address}", err=True)
        return 130
    return _exit_code(client.job(job_id))


def _exit_code(job: SubmittedJob) -> int:
    from rayalign.cluster.submission import NO_SUCH_COMMAND

    if job.status == "SUCCEEDED":
        return 0
    if job.exit_code == NO_SUCH_COMMAND:
        typer.echo("rayalign: the head node has no rayalign on its PATH; set it up (clusters/README.md)", err=True)
    reason = job.message.partition(", last available logs")[0]
    typer.echo(f"rayalign: {job.id} {job.status.lower()}: {reason}", err=True)
    return max(job.exit_code or 0, 1)  # a signal's is negative


def _row(job: SubmittedJob) -> tuple[str, ...]:
    started = minutes = ""
    if job.started is not None:
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started))
        minutes = f"{((job.ended or time.time()) - job.started) / 60:.1f}"
    return job.id, job.status, started, minutes, job.command
