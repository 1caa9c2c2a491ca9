"""The command `rehearse`."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Annotated

import typer

from rayalign.errors import InputError, RayalignError


def rehearse(
    job: Annotated[Path, typer.Argument(help="A job file (YAML).", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace the file's: seed=3.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Keep all counts; else those above 2 become 2.")] = False,
    output: Annotated[
        str | None,
        typer.Option(help="Local folder of what is written; by default `rehearsal` in the run's folder."),
    ] = None,
) -> None:
    """Try a whole job in small on the CPU, and check at full size what the small one hides."""
    import rayalign
    from rayalign.rehearsal.changes import render
    from rayalign.rehearsal.rehearse import rehearse as rehearse_job
    from rayalign.rehearsal.report import rehearsal_folder
    from rayalign.storage.remote import is_url
    from rayalign.storage.space import full_disk_named

    if output and is_url(output):
        raise InputError(f"--output {output} is a URL, but a rehearsal is written on this machine; name a local folder")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the miniature's processes end with this one
    loaded = rayalign.load_job(job, overrides or ())
    rayalign.check(loaded)
    show_progress("rayalign.rehearsal")
    folder = Path(output) if output else rehearsal_folder(loaded.job)
    with full_disk_named(folder.resolve(), "--output"):
        rehearsal = rehearse_job(loaded, full=full, output=folder)
    for line in render(rehearsal.changes):
        typer.echo(line)
    typer.echo("")
    for event in rehearsal.events:
        typer.echo(f"{event.state:<11}  {event.name}: {event.proof}")
    for finding in rehearsal.findings:
        typer.echo(str(finding))
    spent = ", ".join(f"{part} {seconds:.0f} s" for part, seconds in rehearsal.seconds.items())
    typer.echo(f"{spent}; {rehearsal.folder / 'rehearsal.json'}")
    if not rehearsal.passed:
        raise RayalignError(f"the rehearsal of {loaded.job.name} found problems; correct them before a GPU is paid for")


def show_progress(name: str) -> None:
    """Print what the loggers of a package say of their progress."""
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.propagate = False
