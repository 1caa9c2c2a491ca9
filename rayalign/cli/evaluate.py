"""`rayalign evaluate ...`: win rates, length control, agreement and head-to-heads from files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayalign.cli import show
from rayalign.cli.annotator import At, Name
from rayalign.errors import InputError

if TYPE_CHECKING:
    from rayalign.evaluation.labels import Joined
    from rayalign.evaluation.tables import Annotations
    from rayalign.statistics.length_control import LengthControlled

app = typer.Typer(help="Measure models and judges from files.", no_args_is_help=True)

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Annotations (.json, .jsonl, .gz).", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON in the place of a table.")]


@app.command("win-rate")
def win_rate(
    files: Files,
    as_json: Json = False,
    leaderboard: Annotated[Path | None, typer.Option(help="Write the rows as leaderboard.csv.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Annotations of another model, compared prompt by prompt.")
    ] = None,
    detect: Annotated[
        float | None, typer.Option(help="Say how many prompts show a difference of so many points (power 80%).")
    ] = None,
) -> None:
    """Win rates as AlpacaEval publishes them, with 95% intervals by prompt; one JSON object a line with --json."""
    from rayalign.evaluation.tables import write_leaderboard

    if detect is not None and not detect > 0.0:
        raise InputError(f"win-rate: --detect must be more than 0 points, not {detect:g}")
    runs, others = _runs(files), _runs([against] if against else [])
    if len(others) > 1:
        names = ", ".join(run.name for run in others)
        raise InputError(f"{against}: holds verdicts on {names}; --against takes a file of one model")
    other = others[0] if others else None
    entries = [_win_rate(run, other, detect) for run in runs]
    if leaderboard:
        write_leaderboard(leaderboard, entries)
    if as_json:
        return show.json_lines(entries)
    _print_win_rates(entries)


@app.command("length-control")
def length_control(
    files: Files,
    coefficients: Annotated[Path | None, typer.Option(help="Published coefficients (CSV); nothing is fitted.")] = None,
    difficulty: Annotated[Path | None, typer.Option(help="Difficulty of each row or instruction (CSV).")] = None,
    as_json: Json = False,
) -> None:
    """Win rates at equal length. Files on the same prompts give each other the prompts' difficulty."""
    if coefficients and not difficulty:
        raise InputError("length-control: --coefficients needs --difficulty; without the first the model is fitted")
    runs = _runs(files)
    entries = []
    for run in runs:
        if coefficients and difficulty:
            found = _published(run, coefficients, difficulty)
        else:
            found = _fitted(run, runs, difficulty)
        entries.append({"name": run.name, "baseline": run.baseline, "file": str(run.path), **show.plain(found)})
    if as_json:
        return show.json_lines(entries)
    show.table(
        ["model", "baseline", "win rate", "at equal length"],
        [
            (e["name"], e["baseline"], show.figure(e["win_rate"]), show.spread(e, "length_controlled_winrate"))
            for e in entries
        ],
    )
    show.remarks("warning", (f"{entry['name']}: {warning}" for entry in entries for warning in entry["warnings"]))


@app.command()
def agreement(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE...", help="Verdicts, a file for each judge.", show_default=False),
    ] = None,
    humans: Annotated[
        list[Path] | None, typer.Option(help="Labels of people, told apart by `annotator`; may be repeated.")
    ] = None,
    runs: Annotated[bool, typer.Option("--runs", help="The files are runs of one judge with different seeds.")] = False,
    as_json: Json = False,
) -> None:
    """How far judges agree with people, and all raters with each other. Pairs are joined by id or by their texts."""
    from rayalign.evaluation.labels import join_labels

    if not files and not humans:
        raise InputError("agreement: give files of verdicts, and people's labels as --humans")
    joined = join_labels(files or (), humans or ())
    judged = _judged(joined, runs) if files and humans else []
    kappas, fleiss = _kappas(joined), _fleiss(joined)
    if not judged and not kappas:
        raise InputError("agreement: no two raters labelled a pair in common; give more files, or --humans")
    if as_json:
        whole = {"n": len(joined.prompts), "unmatched": joined.unmatched, "judges": judged, "kappas": kappas}
        return show.json_lines([{**whole, "fleiss": fleiss}])
    if judged:
        intervals, figures = ("judge", "humans", "judge_symmetric", "gap"), ("bias", "variance")
        cells = [[*(show.spread(j[n]) for n in intervals), *(show.figure(j[n]) for n in figures)] for j in judged]
        headings = ["judge", "agreement", "people", "same references", "gap to people", *figures]
        show.table(headings, [[j["name"], *row] for j, row in zip(judged, cells, strict=True)])
    rows = [(f"{k['a']} and {k['b']}", show.spread(k["same"]), show.spread(k, digits=3), str(k["n"])) for k in kappas]
    if fleiss:
        told = f"{fleiss['raters']} people on each of {fleiss['n']} pairs (Fleiss)"
        rows.append((told, "", show.spread(fleiss, "kappa", digits=3), ""))
    show.table(["raters", "same verdict [%]", "kappa", "prompts"], rows)
    if joined.unmatched:
        show.remarks("note", [f"{joined.unmatched} pairs were labelled by judges alone or by people alone"])


@app.command("head-to-head")
def head_to_head(
    outputs: Annotated[list[Path], typer.Argument(metavar="OUTPUTS...", help="Model outputs, a file for each model.")],
    annotator: Name = "pool",
    at: At = None,
    baseline: Annotated[Path | None, typer.Option(help="Outputs to compare each model with; else all pairs.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for annotations.json and leaderboard.csv.")] = None,
    as_json: Json = False,
) -> None:
    """Let an annotator compare models' outputs to the same instructions; win rates and Bradley-Terry ratings."""
    from rayalign.annotator.connect import connect, item_in, public
    from rayalign.evaluation import head_to_head as games
    from rayalign.evaluation.tables import write_annotations, write_leaderboard

    models = [games.read_outputs(path) for path in outputs]
    base = games.read_outputs(baseline) if baseline else None
    with closing(connect(at, annotator)) as asked:

        def annotate(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            items = [item_in(row, f"pair {i}") for i, row in enumerate(rows, start=1)]
            return [public(row, a) for row, a in zip(rows, asked.annotate(items), strict=True)]

        found = games.head_to_head(models, annotate, baseline=base)
    if output:
        write_annotations(output / "annotations.json", [row for run in found.annotations for row in run.rows])
    entries = [_win_rate(run, None, None) for run in found.annotations]
    if output and base:
        write_leaderboard(output / "leaderboard.csv", entries)
    notes, ratings = list(found.notes), []
    try:
        ratings = [show.plain(rating) for rating in found.ratings(baseline=base.name if base else None)]
    except InputError as error:  # one-sided verdicts bound no rating, which the win rates do not need
        notes.append(str(error))
    if any(rating["low"] is None for rating in ratings):
        notes.append("ratings without an interval: too many resamples hold no verdict that bounds them; add prompts")
    if as_json:
        return show.json_lines([{"results": entries, "ratings": ratings, "notes": notes}])
    _print_win_rates(entries)
    if ratings:
        rows = [(r["name"], show.spread(r, "rating", digits=0), str(r["n"])) for r in ratings]
        show.table(["model", "rating", "verdicts"], rows)
    show.remarks("note", notes)


def _runs(files: Sequence[Path]) -> list[Annotations]:
    from rayalign.evaluation.tables import read_annotations

    return [run for path in files for run in read_annotations(path)]


def _win_rate(run: Annotations, other: Annotations | None, detect: float | None) -> dict[str, Any]:
    from rayalign.evaluation.tables import paired_preferences
    from rayalign.statistics.winrate import compare_win_rates, minimum_prompts, win_rate_interval

    published = run.published()
    spread = win_rate_interval(run.preferences, run.prompts)
    entry = {**published, "baseline": run.baseline, "file": str(run.path), "low": spread.low, "high": spread.high}
    deviation = entry["standard_error"] * math.sqrt(entry["n_total"])
    if other:
        test = compare_win_rates(*paired_preferences(run, other))
        entry |= {"against": other.name, "difference": test.difference, "p_value": test.p_value}
        deviation = test.deviation
    if detect is not None:
        entry["minimum_prompts"] = minimum_prompts(deviation, detect) if deviation > 0.0 else None
    return entry


def _published(run: Annotations, coefficients: Path, difficulty: Path) -> LengthControlled:
    from rayalign.evaluation.tables import read_coefficients, read_difficulty
    from rayalign.statistics import length_control as control
    from rayalign.statistics.winrate import win_rate as rate_of

    table = read_coefficients(coefficients)
    if run.name not in table:
        raise InputError(f"{coefficients}: no coefficients of {run.name}; known: {', '.join(table)}")
    rate, error = control.predict(table[run.name], read_difficulty(difficulty, run))
    raw = rate_of(run.preferences).win_rate
    told = tuple(control.far_from_raw(raw, rate))
    return control.LengthControlled(rate, error, math.nan, math.nan, raw, table[run.name], math.nan, told)


def _fitted(run: Annotations, runs: Sequence[Annotations], difficulty: Path | None) -> LengthControlled:
    from rayalign.evaluation.tables import difficulty_from_others, read_difficulty
    from rayalign.statistics.length_control import length_controlled

    hard = read_difficulty(difficulty, run) if difficulty else difficulty_from_others(run, runs)
    return length_controlled(
        run.preferences, run.lengths(2), run.lengths(1), difficulty=hard, clusters=run.prompts, resamples=200
    )


def _judged(joined: Joined, runs: bool) -> list[dict[str, Any]]:
    from rayalign.statistics.agreement import agreement as agree

    people = list(joined.humans.values())
    judges = {"all runs": list(joined.judges.values())} if runs else {n: [v] for n, v in joined.judges.items()}
    return [{"name": name, **show.plain(agree(seeds, people, joined.prompts))} for name, seeds in judges.items()]


def _kappas(joined: Joined) -> list[dict[str, Any]]:
    """Cohen's kappa and the share alike of each two raters with labels in common; a verdict is a side or a tie."""
    from itertools import combinations

    from rayalign.statistics.agreement import cohen_kappa_interval
    from rayalign.statistics.intervals import rate_interval

    raters = {
        name: [None if label is None else (label > 1.5) - (label < 1.5) for label in labels]
        for name, labels in (joined.humans | joined.judges).items()
    }
    found = []
    for a, b in combinations(raters, 2):
        said = zip(raters[a], raters[b], strict=True)
        same = [None if x is None or y is None else 100.0 * (x == y) for x, y in said]
        if any(s is not None for s in same):
            kappa = cohen_kappa_interval(raters[a], raters[b], joined.prompts)
            found.append({"a": a, "b": b, **show.plain(kappa)})
            found[-1]["same"] = show.plain(rate_interval(same, joined.prompts, most=100.0))
    return found


def _fleiss(joined: Joined) -> dict[str, Any] | None:
    """Fleiss' kappa of people, over the pairs that the commonest number of them labelled."""
    from rayalign.annotator.label_figures import fleiss

    people = (
        {str(i): (label > 1.5) - (label < 1.5) + 1 for i, label in enumerate(labels) if label is not None}
        for labels in joined.humans.values()
    )
    found = fleiss(people, {str(i): prompt for i, prompt in enumerate(joined.prompts)})
    return None if found is None else found.model_dump()


def _print_win_rates(entries: Sequence[dict[str, Any]]) -> None:
    rows = []
    for e in map(show.plain, entries):
        row = {"model": e["name"], "baseline": e["baseline"], "win rate": show.spread(e, "win_rate")}
        row["won/lost/drawn"] = f"{e['n_wins']}/{e['n_wins_base']}/{e['n_draws']}"
        row["length"] = str(e["avg_length"])
        if "difference" in e:
            row |= {"difference": show.spread(e["difference"]), "p": f"{e['p_value']:.2g}"}
        if "minimum_prompts" in e:
            row["prompts needed"] = show.figure(e["minimum_prompts"], 0)
        rows.append(row)
    show.table(list(rows[0]), [list(row.values()) for row in rows])
