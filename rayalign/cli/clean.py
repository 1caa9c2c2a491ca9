"""`rayalign clean`: what finished stages no longer need."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from rayalign.errors import InputError

_LEFT = ("checkpoints", "rows", "reference", "ranks")
"""folders of a stage that serve only to go on with it"""


def clean(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this, list it.")] = False,
) -> None:
    """Free the disk of checkpoints of finished stages; models, records, metrics and reports stay."""
    total = 0
    for run in runs:
        if not (run / "stages").is_dir():
            raise InputError(f"{run}: there is no such run folder")
        for folder in _superfluous(run):
            size = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
            total += size
            typer.echo(f"{size / 2**20:8.1f} MiB  {folder}")
            if yes:
                shutil.rmtree(folder)
    typer.echo(f"{total / 2**20:8.1f} MiB  {'removed' if yes else 'in all; remove it with --yes'}")


def _superfluous(run: Path) -> Iterator[Path]:
    """Folders of stages that have finished, and what kills left half-written."""
    for stage in sorted((run / "stages").iterdir()):
        if not (stage / "done.json").is_file():
            continue
        yield from (stage / name for name in _LEFT if (stage / name).is_dir())
        yield from (folder for folder in sorted(stage.glob(".*.tmp")) if folder.is_dir())
