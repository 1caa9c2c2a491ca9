"""`rayalign compare`, and the seeds of `rayalign run`: several runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from rayalign.cli import show
from rayalign.cli.evaluate import Json
from rayalign.errors import InputError

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.", show_default=False)]


def compare(
    runs: Runs,
    as_json: Json = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write a page with overlaid learning curves (HTML).")
    ] = None,
) -> None:
    """Figures of several runs with their spread, and paired differences on the prompts that two runs share."""
    from rayalign.evaluation.run_page import write_comparison
    from rayalign.evaluation.run_tables import differences, spreads

    rows, paired = spreads(runs), differences(runs)
    if output:
        write_comparison(runs, output)
    if as_json:
        entry = {"figures": [row._asdict() for row in rows], "differences": show.plain(paired)}
        return show.json_lines([entry])
    print_spreads(runs)
    cells = []
    for row in paired:
        interval = show.spread(show.plain(row.interval), digits=3)
        cells.append((f"{row.name}: {row.b} - {row.a}", interval, str(row.interval.n)))
    if cells:
        show.table(("paired difference", "mean and 95% interval", "prompts"), cells)
    if output:
        typer.echo(f"page: {output}")


def print_spreads(runs: Sequence[Path]) -> None:
    """A table of each figure over runs."""
    from rayalign.evaluation.run_tables import spreads

    cells = []
    for row in spreads(runs):
        deviation = show.figure(row.deviation, 3)
        between = f"{show.figure(row.lowest, 3)} to {show.figure(row.highest, 3)}"
        cells.append((row.name, row.metric, show.figure(row.mean, 3), deviation, between, str(row.runs)))
    show.table(("model", "metric", "mean", "deviation", "lowest to highest", "runs"), cells, words=2)


def numbers_in(text: str) -> list[int]:
    """The seeds of `0,1,2`.

    Raises:
        InputError: no list of whole numbers, or one twice.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"--seeds {text!r}: write whole numbers with commas between them, such as 0,1,2")
    seeds = [int(part) for part in parts]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {text!r}: holds a seed twice")
    return seeds


def run_seeds(
    job: Path, overrides: Sequence[str], seeds: Sequence[int], run_one: Callable[[Path, list[str]], Path]
) -> None:
    """Run a job once with each seed, as NAME-seed0 and so on, then print one table."""
    from rayalign.config import load_job

    name = load_job(job, overrides).job.name
    folders = []
    for seed in seeds:
        folders.append(run_one(job, [*overrides, f"seed={seed}", f"name={name}-seed{seed}"]))
    typer.echo(f"\n{name} over {len(seeds)} seeds")
    print_spreads(folders)
