"""`rayalign export`: what a run made, in a public format."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayalign.cli import show
from rayalign.errors import InputError

if TYPE_CHECKING:
    from rayalign.types import Example


def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN[/STAGE]|FILE",
            help="A run, one of its stages by name, or a stage's records such as runs/NAME/stages/STAGE/drawn.jsonl.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option(help="The folder to write; of records the file (JSONL).", show_default=False)],
    adapter: Annotated[bool, typer.Option("--adapter", help="Of a model, the adapter alone.")] = False,
    outputs: Annotated[bool, typer.Option("--outputs", help="Of records, AlpacaEval's columns.")] = False,
) -> None:
    """Write a model with its card, or scored answers as RRHF's rows, or answers in AlpacaEval's columns."""
    if source.is_file() and outputs:
        _export_outputs(source, output)
    elif source.is_file():
        _export_rankings(source, output)
    else:
        _export_model(source, output, adapter)


def _export_model(source: Path, output: Path, adapter: bool) -> None:
    import rayalign
    from rayalign.storage.model_card import model_card
    from rayalign.storage.records import atomic_write

    run, stage = _stage_of(source)
    folder = run / "stages" / stage / "model"
    if adapter:
        folder = folder / "adapter"
    what = "adapter" if adapter else "model"
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; the stage {stage} made no {what}")
    if output.exists() and any(output.iterdir() if output.is_dir() else [output]):
        raise InputError(f"{output}: exists and is not empty; name a new folder")
    shutil.copytree(folder, output, dirs_exist_ok=True, ignore=None if adapter else shutil.ignore_patterns("adapter"))
    card = model_card(run, stage, adapter=adapter, version=rayalign.__version__)
    atomic_write(output / "README.md", [card])
    typer.echo(f"{output}: the {what} of {run.name}, {stage}; its card is README.md")


def _stage_of(source: Path) -> tuple[Path, str]:
    """The run and the stage that a path names; of a run alone the last stage that made a model."""
    for run, stage in ((source, ""), (source.parent, source.name), (source.parent.parent, source.name)):
        if not (run / "job.yaml").is_file():
            continue
        stages = run / "stages"
        if stage and (stages / stage).is_dir():
            return run, stage
        finished = [folder for folder in stages.glob("*") if (folder / "model").is_dir() and _time(folder)]
        if not stage and finished:
            return run, max(finished, key=_time).name
    raise InputError(f"{source}: neither a file nor a run or a stage that made a model; write RUN or RUN/STAGE")


def _time(folder: Path) -> float:
    """When a stage finished; 0 where it has not."""
    from rayalign.storage.summary import read_done

    return float((read_done(folder) or {}).get("time", 0.0))


def _export_outputs(records: Path, output: Path) -> None:
    from rayalign.evaluation.head_to_head import output_rows
    from rayalign.evaluation.tables import write_annotations

    rows = list(output_rows(records))
    write_annotations(output, rows)
    typer.echo(f"{output}: {len(rows)} answers")


def _export_rankings(records: Path, output: Path) -> None:
    from rayalign.data.rankings import as_rankings
    from rayalign.storage.records import write_jsonl

    rankings = as_rankings(_examples(records))
    if not rankings.rows:
        reasons = _counts(rankings.absent | rankings.skipped)
        raise InputError(f"{records}: no prompt has two scored answers ({reasons}); score them with `best_of`")
    write_jsonl(output, rankings.rows)
    answers = sum(len(row["scores"]) for row in rankings.rows)
    typer.echo(f"{output}: {len(rankings.rows)} queries with {answers} responses")
    left_out = {"responses": rankings.absent, "queries": rankings.skipped}
    show.remarks("left out", (f"{name} ({_counts(reasons)})" for name, reasons in left_out.items() if reasons))


def _examples(path: Path) -> Iterator[Example]:
    """Groups with their scores; verdicts on pairs become scores by Borda's count."""
    from rayalign.pipeline.feedback import ranked
    from rayalign.storage.records import decode, read_jsonl
    from rayalign.types import Comparison, Example

    rows = read_jsonl(path)
    first = next(rows, None)
    if first is None:
        raise InputError(f"{path} has no rows; name a file of candidates with scores, or of verdicts on pairs")
    kind: type[Comparison] | type[Example] = Comparison if "preference" in first and "first" in first else Example
    records = [decode(kind, row, str(path)) for row in (first, *rows)]
    yield from (record for record in records if isinstance(record, Example))
    yield from ranked(record for record in records if isinstance(record, Comparison))


def _counts(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in reasons.items())
