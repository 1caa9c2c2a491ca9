"""`rayalign evaluate head-to-head`: an annotator compares the outputs of models."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayalign.cli import show
from rayalign.cli.annotator import At, Name
from rayalign.cli.evaluate import Figures, Json, print_win_rates, win_rate_entry
from rayalign.errors import InputError

if TYPE_CHECKING:
    from rayalign.evaluation.head_to_head import HeadToHead


def head_to_head(
    outputs: Annotated[list[Path], typer.Argument(metavar="OUTPUTS...", help="Model outputs, a file for each model.")],
    annotator: Name = "pool",
    at: At = None,
    baseline: Annotated[Path | None, typer.Option(help="Outputs to compare each model with; else all pairs.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for annotations.json and leaderboard.csv.")] = None,
    as_json: Json = False,
) -> None:
    """Compare models' outputs to the same instructions by an annotator; print win rates and Bradley-Terry ratings."""
    from rayalign.evaluation.tables import write_annotations, write_leaderboard

    games = _games(outputs, baseline, annotator, at)
    if output:
        write_annotations(output / "annotations.json", games.rows)
    entries = [win_rate_entry(run, None, None) for run in games.annotations]
    if output and baseline:
        write_leaderboard(output / "leaderboard.csv", entries)
    ratings, notes = _ratings(games, games.annotations[0].baseline if baseline else None)
    if as_json:
        return show.json_lines([{"results": entries, "ratings": ratings, "notes": notes}])
    print_win_rates(entries)
    if ratings:
        rows = [(rating["name"], show.spread(rating, "rating", digits=0), str(rating["n"])) for rating in ratings]
        show.table(["model", "rating", "verdicts"], rows)
    show.remarks("note", notes)


def _games(outputs: Sequence[Path], baseline: Path | None, annotator: str, at: str | None) -> HeadToHead:
    from rayalign.annotator.asking.connect import connect, item_in, public
    from rayalign.evaluation.head_to_head import head_to_head, read_outputs

    models = [read_outputs(path) for path in outputs]
    baseline_outputs = read_outputs(baseline) if baseline else None
    with closing(connect(at, annotator)) as service:

        def annotate(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            items = [item_in(row, f"pair {number}") for number, row in enumerate(rows, start=1)]
            annotations = service.annotate(items)
            return [public(row, annotation) for row, annotation in zip(rows, annotations, strict=True)]

        return head_to_head(models, annotate, baseline=baseline_outputs)


def _ratings(games: HeadToHead, baseline: str | None) -> tuple[list[Figures], list[str]]:
    """The ratings, and the notes on them and on the pairing."""
    notes = list(games.notes)
    try:
        ratings = [show.plain(rating) for rating in games.ratings(baseline=baseline)]
    except InputError as error:  # one-sided verdicts bound no rating, which the win rates do not need
        return [], [*notes, str(error)]
    if any(rating["low"] is None for rating in ratings):
        notes.append("ratings without an interval: too many resamples hold no verdict that bounds them; add prompts")
    return ratings, notes
