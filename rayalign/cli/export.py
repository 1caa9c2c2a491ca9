"""`rayalign export`: what a stage made, in a public format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayalign.cli import show
from rayalign.errors import InputError

if TYPE_CHECKING:
    from rayalign.types import Example


def export(
    records: Annotated[
        Path,
        typer.Argument(
            help="Scored candidates or comparisons, such as runs/NAME/stages/STAGE/drawn.jsonl.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option(help="The file to write (JSONL).", show_default=False)],
) -> None:
    """Write scored answers as RRHF's rows: query, responses, scores; the data format `rankings` reads them."""
    from rayalign.data.rankings import as_rankings
    from rayalign.storage.records import write_jsonl

    if not records.is_file():
        raise InputError(f"{records}: there is no such file; name the records of a generate or annotate stage")
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
