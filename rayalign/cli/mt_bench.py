"""`rayalign evaluate mt-bench`: a judge rates or compares models' answers to questions of one or two turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayalign.cli import bench_options as options
from rayalign.cli import show
from rayalign.cli.annotator import At
from rayalign.cli.evaluate import Figures, Json
from rayalign.errors import InputError

if TYPE_CHECKING:
    from rayalign.data.files import Row
    from rayalign.evaluation.mt_bench_run import Study

Mode = Annotated[str, typer.Option(help="single, pairwise-baseline or pairwise-all.")]
Baseline = Annotated[str | None, typer.Option(help="The opponent of pairwise-baseline.", show_default="gpt-3.5-turbo")]
References = Annotated[Path | None, typer.Option(help="Reference answers, else those of the questions.")]
PromptFile = Annotated[Path | None, typer.Option(help="judge_prompts.jsonl, else our own prompts.")]
Output = Annotated[Path, typer.Option(help="Folder for the judgments and the page.")]


def mt_bench(
    questions: options.Questions = None,
    answers: options.AnswerFiles = None,
    judge: options.Judge = None,
    mode: Mode = "single",
    baseline: Baseline = None,
    references: References = None,
    prompts: PromptFile = None,
    at: At = None,
    base_url: options.BaseUrl = None,
    key_variable: options.KeyVariable = "OPENAI_API_KEY",
    judgments: options.Judgments = None,
    output: Output = Path("runs/mt_bench"),
    as_json: Json = False,
) -> None:
    """MT-Bench in its public files: ratings by turn and category, or wins in two swapped games.

    Judgments are appended as they come, and the same command goes on where it stopped.
    """
    from rayalign.evaluation.mt_bench_run import MODES

    if mode not in MODES:
        raise InputError(f"mt-bench: --mode is {', '.join(MODES)}, not {mode}")
    if judgments:
        rows, categories, opponent = _existing(judgments, questions, mode, baseline)
        names = _names(rows, mode, opponent)
    else:
        required = options.needed("mt-bench", questions, answers, judge)
        study = _study(required[0], required[1], mode, baseline, references, prompts)
        rows = _judged(study, required[2], at, base_url, key_variable, output)
        categories, opponent, names = study.categories, study.opponent, study.models
    judged = _names(_met(rows, opponent), mode, opponent)
    unmet = [name for name in names if name not in judged]
    if unmet:
        show.remarks("left out", [f"{name}: no judgment of it{_against(opponent)}" for name in unmet])
    entries = [_entry(rows, name, mode, opponent, categories) for name in names if name in judged]
    entries.sort(key=lambda entry: -entry["order"])
    page = output / f"mt_bench_{mode}.html"
    if categories and any(entry["categories"] for entry in entries):
        _write_page(page, mode, entries)
        show.remarks("page", [str(page)])
    if as_json:
        return show.json_lines(_without_order(entries))
    _print(entries, mode)


def _study(
    questions: str,
    answers: list[Path],
    mode: Any,
    baseline: str | None,
    references: Path | None,
    prompts: Path | None,
) -> Study:
    from rayalign.evaluation.mt_bench_files import read_questions
    from rayalign.evaluation.mt_bench_run import Study, read_models

    return Study(read_questions(questions), read_models(answers), mode, baseline, references, prompts)


def _judged(
    study: Study, judge: str, at: str | None, base_url: str | None, key_variable: str, output: Path
) -> list[Row]:
    from rayalign.evaluation.bench_run import run_with
    from rayalign.evaluation.mt_bench_run import MAX_TOKENS, judge_study

    opened = options.judge_for(judge, at, base_url, key_variable, MAX_TOKENS)
    judged = run_with(opened, lambda: judge_study(study, opened, output))
    options.remarks(judged, study.notes())
    rows: list[Row] = judged.rows
    return rows


def _existing(
    paths: Sequence[Path], questions: str | None, mode: str, baseline: str | None
) -> tuple[list[Row], dict[Any, str], str | None]:
    """Judgments of files, the questions' categories where a question file is named, and the opponent."""
    from rayalign.evaluation.mt_bench_files import read_judgments, read_questions
    from rayalign.evaluation.mt_bench_run import BASELINE

    rows: list[Row] = []
    for path in paths:
        rows += read_judgments(path, "single" if mode == "single" else "pairwise")
    categories = {}
    if questions:
        categories = {question.id: question.category for question in read_questions(questions)}
    opponent = (baseline or BASELINE) if mode == "pairwise-baseline" else None
    return rows, categories, opponent


def _names(rows: Sequence[Row], mode: str, opponent: str | None) -> list[str]:
    """The judged models in order of appearance."""
    fields = ("model",) if mode == "single" else ("model_1", "model_2")
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(str(row[field]) for field in fields))
    return [name for name in names if name != opponent]


def _met(rows: Sequence[Row], opponent: str | None) -> list[Row]:
    """Judgments that the opponent is part of; all of them where there is none."""
    return [row for row in rows if opponent is None or opponent in (row["model_1"], row["model_2"])]


def _against(opponent: str | None) -> str:
    return f" against {opponent}" if opponent else ""


def _entry(rows: Sequence[Row], name: str, mode: str, opponent: str | None, categories: Mapping[Any, str]) -> Figures:
    """The figures of a model, in all and by category; `order` is what the table is sorted by."""
    from rayalign.evaluation.mt_bench import by_category, pairwise, single

    mine = [row for row in rows if name in (row.get("model"), row.get("model_1"), row.get("model_2"))]
    if mode == "single":
        figures: Any = single(mine, name)
        ratings = by_category(mine, categories, partial(single, model=name))
        by_name = {category: part.mean for category, part in ratings.items()}
        order = figures.mean.mean if figures.mean else 0.0
    else:
        mine = _met(mine, opponent)
        figures = pairwise(mine, name, baseline=opponent)
        parts = by_category(mine, categories, partial(pairwise, model=name, baseline=opponent))
        by_name = {category: part.interval for category, part in parts.items()}
        order = figures.adjusted if figures.n else 0.0
    return {**figures._asdict(), "categories": {k: v for k, v in by_name.items() if v}, "order": order}


def _without_order(entries: Sequence[Figures]) -> list[Figures]:
    plain = [dict(entry) for entry in entries]
    for entry in plain:
        del entry["order"]
    return plain


def _write_page(path: Path, mode: str, entries: Sequence[Figures]) -> None:
    from rayalign.evaluation.category_page import category_plot, write_category_page
    from rayalign.evaluation.mt_bench import SCALE

    least, most = SCALE if mode == "single" else (0.0, 1.0)
    title = "Mean rating by category" if mode == "single" else "Wins by category (a tie counts half)"
    series = {entry["model"]: entry["categories"] for entry in entries}
    write_category_page(
        path, "MT-Bench", f"mode {mode}, {len(entries)} models", [category_plot(title, series, least=least, most=most)]
    )


def _print(entries: Sequence[Figures], mode: str) -> None:
    plain = list(map(show.plain, entries))
    if mode == "single":
        headings = ["model", "rating", "first turn", "second turn", "rated", "no rating"]
        show.table(headings, map(_rated_row, plain))
    else:
        headings = ["model", "adjusted win rate", "win", "loss", "tie", "errors", "games disagree"]
        show.table(headings, map(_paired_row, plain))
    categories: dict[str, None] = {}
    for entry in plain:
        categories.update(dict.fromkeys(entry["categories"]))
    if categories:
        rows = [_category_row(category, plain) for category in categories]
        show.table(["category", *(entry["model"] for entry in plain)], rows)


def _rated_row(entry: Figures) -> list[str]:
    means = [_spread(entry[key]) for key in ("mean", "first_turn", "second_turn")]
    return [entry["model"], *means, str(entry["rated"]), str(entry["dropped"])]


def _paired_row(entry: Figures) -> list[str]:
    counts = [str(entry[key]) for key in ("win", "loss", "tie", "errors", "inconsistent")]
    return [entry["model"], _spread(entry["interval"]), *counts]


def _category_row(category: str, entries: Sequence[Figures]) -> list[str]:
    return [category, *(_spread(entry["categories"].get(category)) for entry in entries)]


def _spread(figure: Figures | None) -> str:
    return show.spread(figure, digits=2) if figure else ""
