"""`rayalign evaluate ...`: win rates, length control and agreement from files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayalign.cli import show
from rayalign.errors import InputError

if TYPE_CHECKING:
    from rayalign.evaluation.labels import Joined
    from rayalign.evaluation.tables import Annotations
    from rayalign.statistics.length_control import LengthControlled

Figures = dict[str, Any]
"""one entry of the JSON output"""

app = typer.Typer(help="Measure models and judges from files.", no_args_is_help=True)

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Annotations (.json, .jsonl, .gz).", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("win-rate")
def win_rate(
    files: Files,
    as_json: Json = False,
    leaderboard: Annotated[Path | None, typer.Option(help="Write the rows as leaderboard.csv.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Annotations of another model, compared prompt by prompt.")
    ] = None,
    detect: Annotated[
        float | None, typer.Option(help="Print how many prompts show a difference of so many points (power 80%).")
    ] = None,
) -> None:
    """Win rates as AlpacaEval publishes them, with 95% intervals by prompt; one JSON object a line with --json."""
    from rayalign.evaluation.tables import write_leaderboard

    if detect is not None and not detect > 0.0:
        raise InputError(f"win-rate: --detect must be more than 0 points, not {detect:g}")
    runs, opponents = _runs(files), _runs([against] if against else [])
    if len(opponents) > 1:
        names = ", ".join(run.name for run in opponents)
        raise InputError(f"{against}: holds verdicts on {names}; --against takes a file of one model")
    opponent = opponents[0] if opponents else None
    entries = [win_rate_entry(run, opponent, detect) for run in runs]
    if leaderboard:
        write_leaderboard(leaderboard, entries)
    if as_json:
        return show.json_lines(entries)
    print_win_rates(entries)


@app.command("length-control")
def length_control(
    files: Files,
    coefficients: Annotated[Path | None, typer.Option(help="Published coefficients (CSV); nothing is fitted.")] = None,
    difficulty: Annotated[Path | None, typer.Option(help="Difficulty of each row or instruction (CSV).")] = None,
    model: Annotated[
        str | None, typer.Option(help="The model's name in the coefficients; default: the one that the file names.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Win rates at equal length. Files on the same prompts give each other the prompts' difficulty."""
    if coefficients and not difficulty:
        raise InputError("length-control: --coefficients needs --difficulty; without the first the model is fitted")
    runs = _runs(files)
    entries: list[Figures] = []
    for run in runs:
        if coefficients and difficulty:
            controlled = _published(run, coefficients, difficulty, model or run.name)
        else:
            controlled = _fitted(run, runs, difficulty)
        entries.append({"name": run.name, "baseline": run.baseline, "file": str(run.path), **show.plain(controlled)})
    if as_json:
        return show.json_lines(entries)
    rows = []
    for entry in entries:
        controlled_rate = show.spread(entry, "length_controlled_winrate")
        rows.append((entry["name"], entry["baseline"], show.figure(entry["win_rate"]), controlled_rate))
    show.table(["model", "baseline", "win rate", "at equal length"], rows)
    for entry in entries:
        show.remarks("warning", [f"{entry['name']}: {warning}" for warning in entry["warnings"]])


@app.command()
def agreement(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE...", help="Verdicts, a file for each judge.", show_default=False),
    ] = None,
    humans: Annotated[
        list[Path] | None, typer.Option(help="Labels of people, distinguished by `annotator`; may be repeated.")
    ] = None,
    runs: Annotated[bool, typer.Option("--runs", help="The files are runs of one judge with different seeds.")] = False,
    as_json: Json = False,
) -> None:
    """Agreement of judges with people, and of all raters with each other. Pairs are joined by id or by their texts."""
    from rayalign.evaluation.labels import join_labels

    if not files and not humans:
        raise InputError("agreement: give files of verdicts, and people's labels as --humans")
    joined = join_labels(files or (), humans or ())
    judges = _judge_agreements(joined, runs) if files and humans else []
    kappas, fleiss = _kappas(joined), _fleiss(joined)
    if not judges and not kappas:
        raise InputError("agreement: no two raters labelled a pair in common; give more files, or --humans")
    if as_json:
        counts = {"n": len(joined.prompts), "unmatched": joined.unmatched}
        return show.json_lines([{**counts, "judges": judges, "kappas": kappas, "fleiss": fleiss}])
    if judges:
        _print_judges(judges)
    _print_kappas(kappas, fleiss)
    if joined.unmatched:
        show.remarks("note", [f"{joined.unmatched} pairs were labelled by judges alone or by people alone"])


def _runs(files: Sequence[Path]) -> list[Annotations]:
    from rayalign.evaluation.tables import read_annotations

    runs: list[Annotations] = []
    for path in files:
        runs.extend(read_annotations(path))
    return runs


def win_rate_entry(run: Annotations, opponent: Annotations | None, detect: float | None) -> Figures:
    """The figures of one run, against another run and with the prompts to detect a difference where requested."""
    from rayalign.evaluation.tables import paired_preferences
    from rayalign.statistics.winrate import compare_win_rates, minimum_prompts, win_rate_interval

    published = run.published()
    interval = win_rate_interval(run.preferences, run.prompts)
    entry = {**published, "baseline": run.baseline, "file": str(run.path), "low": interval.low, "high": interval.high}
    deviation = entry["standard_error"] * math.sqrt(entry["n_total"])
    if opponent:
        test = compare_win_rates(*paired_preferences(run, opponent))
        entry |= {"against": opponent.name, "difference": test.difference, "p_value": test.p_value}
        deviation = test.deviation
    if detect is not None:
        entry["minimum_prompts"] = minimum_prompts(deviation, detect) if deviation > 0.0 else None
    return entry


def _published(run: Annotations, coefficients: Path, difficulty: Path, name: str) -> LengthControlled:
    from rayalign.config import nearest
    from rayalign.evaluation.length_files import read_coefficients, read_difficulty
    from rayalign.statistics import length_control as control
    from rayalign.statistics import winrate

    by_model = read_coefficients(coefficients)
    if name not in by_model:
        raise InputError(f"{coefficients}: no coefficients of {name}; {nearest(name, list(by_model))}, as --model")
    rate, error = control.predict(by_model[name], read_difficulty(difficulty, run))
    raw = winrate.win_rate(run.preferences).win_rate
    warnings = tuple(control.far_from_raw(raw, rate))
    return control.LengthControlled(rate, error, math.nan, math.nan, raw, by_model[name], math.nan, warnings)


def _fitted(run: Annotations, runs: Sequence[Annotations], difficulty: Path | None) -> LengthControlled:
    from rayalign.evaluation.length_files import read_difficulty
    from rayalign.evaluation.tables import difficulty_from_others
    from rayalign.statistics.length_control import length_controlled

    by_prompt = read_difficulty(difficulty, run) if difficulty else difficulty_from_others(run, runs)
    return length_controlled(
        run.preferences, run.lengths(2), run.lengths(1), difficulty=by_prompt, clusters=run.prompts, resamples=200
    )


def _judge_agreements(joined: Joined, runs: bool) -> list[Figures]:
    """Each judge against people; with `runs` all files are one judge."""
    from rayalign.statistics.agreement import agreement as agreement_of

    people = list(joined.humans.values())
    if runs:
        judges = {"all runs": list(joined.judges.values())}
    else:
        judges = {name: [labels] for name, labels in joined.judges.items()}
    entries = []
    for name, seeds in judges.items():
        entries.append({"name": name, **show.plain(agreement_of(seeds, people, joined.prompts))})
    return entries


def _kappas(joined: Joined) -> list[Figures]:
    """Cohen's kappa and the share of equal verdicts of each two raters with labels in common."""
    from itertools import combinations

    from rayalign.statistics.agreement import cohen_kappa_interval
    from rayalign.statistics.intervals import rate_interval

    raters = {name: _verdicts(labels) for name, labels in (joined.humans | joined.judges).items()}
    entries = []
    for a, b in combinations(raters, 2):
        pairs = zip(raters[a], raters[b], strict=True)
        same = [None if x is None or y is None else 100.0 * (x == y) for x, y in pairs]
        if any(share is not None for share in same):
            kappa = show.plain(cohen_kappa_interval(raters[a], raters[b], joined.prompts))
            share = show.plain(rate_interval(same, joined.prompts, most=100.0))
            entries.append({"a": a, "b": b, **kappa, "same": share})
    return entries


def _verdicts(labels: Sequence[float | None]) -> list[int | None]:
    from rayalign.annotator.store.label_figures import verdict_of

    return [None if label is None else verdict_of(label) for label in labels]


def _fleiss(joined: Joined) -> Figures | None:
    """Fleiss' kappa of people, over the pairs that the commonest number of them labelled."""
    from rayalign.annotator.store.label_figures import fleiss

    people = []
    for labels in joined.humans.values():
        verdicts = enumerate(_verdicts(labels))
        people.append({str(i): verdict for i, verdict in verdicts if verdict is not None})
    prompts = {str(i): prompt for i, prompt in enumerate(joined.prompts)}
    kappa = fleiss(people, prompts)
    return None if kappa is None else kappa.model_dump()


def print_win_rates(entries: Sequence[Figures]) -> None:
    """A table of entries from `win_rate_entry`."""
    rows = []
    for entry in map(show.plain, entries):
        row = {"model": entry["name"], "baseline": entry["baseline"], "win rate": show.spread(entry, "win_rate")}
        row["won/lost/drawn"] = f"{entry['n_wins']}/{entry['n_wins_base']}/{entry['n_draws']}"
        row["length"] = str(entry["avg_length"])
        if "difference" in entry:
            row |= {"difference": show.spread(entry["difference"]), "p": f"{entry['p_value']:.2g}"}
        if "minimum_prompts" in entry:
            row["prompts needed"] = show.figure(entry["minimum_prompts"], 0)
        rows.append(row)
    show.table(list(rows[0]), [list(row.values()) for row in rows])


def _print_judges(judges: Sequence[Figures]) -> None:
    rows = []
    for entry in judges:
        intervals = [show.spread(entry[name]) for name in ("judge", "humans", "judge_symmetric", "gap")]
        rows.append([entry["name"], *intervals, show.figure(entry["bias"]), show.figure(entry["variance"])])
    headings = ["judge", "agreement", "people", "same references", "gap to people", "bias", "variance"]
    show.table(headings, rows)


def _print_kappas(kappas: Sequence[Figures], fleiss: Figures | None) -> None:
    rows = []
    for entry in kappas:
        raters = f"{entry['a']} and {entry['b']}"
        rows.append((raters, show.spread(entry["same"]), show.spread(entry, digits=3), str(entry["n"])))
    if fleiss:
        raters = f"{fleiss['raters']} people on each of {fleiss['n']} pairs (Fleiss)"
        rows.append((raters, "", show.spread(fleiss, "kappa", digits=3), ""))
    show.table(["raters", "same verdict [%]", "kappa", "prompts"], rows)
