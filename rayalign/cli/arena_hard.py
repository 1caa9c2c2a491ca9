"""`rayalign evaluate arena-hard`: a judge compares models with a baseline in two swapped games."""

from __future__ import annotations

from collections.abc import Sequence
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
    from rayalign.evaluation.arena_run import ArenaStudy

RuleSet = Annotated[
    str | None, typer.Option(help="v0.1 or v2.0.", show_default="the schema of the questions or judgments")
]
Baselines = Annotated[
    list[str] | None, typer.Option(help="MODEL, or CATEGORY=MODEL; may be repeated.", show_default="the published ones")
]
Control = Annotated[list[str] | None, typer.Option(help="length, markdown, or both: standings at equal style.")]
Categories = Annotated[list[str] | None, typer.Option("--category", help="May be repeated.", show_default="all")]
Settings = Annotated[
    Path | None, typer.Option(help="YAML with prompt_template and maybe system_prompt, else our own prompts.")
]
Output = Annotated[Path, typer.Option(help="Folder for the judgments.")]


def arena_hard(
    questions: options.Questions = None,
    answers: options.AnswerFiles = None,
    judge: options.Judge = None,
    rules: RuleSet = None,
    baseline: Baselines = None,
    control: Control = None,
    category: Categories = None,
    prompts: Settings = None,
    at: At = None,
    base_url: options.BaseUrl = None,
    key_variable: options.KeyVariable = "OPENAI_API_KEY",
    judgments: options.Judgments = None,
    weight: Annotated[int, typer.Option(min=1, help="How often a strong verdict counts.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstraps.")] = 0,
    output: Output = Path("runs/arena_hard"),
    as_json: Json = False,
) -> None:
    """Arena-Hard v0.1 and v2.0 in their public files: wins against a baseline, by category.

    Judgments are appended as they come, and the same command goes on where it stopped.
    """
    from rayalign.evaluation.arena_hard import leaderboard

    if rules not in (None, "v0.1", "v2.0"):
        raise InputError(f"arena-hard: --rules is v0.1 or v2.0, not {rules}")
    counting: dict[str, Any] = {"categories": category, "weight": weight, "seed": seed}
    if judgments:
        rows = _existing(judgments, _baselines(baseline))
        counting["rules"] = rules or ("v0.1" if "question_id" in rows[0] else "v2.0")
    else:
        required = options.needed("arena-hard", questions, answers, judge)
        study = _study(required[0], required[1], rules, _baselines(baseline), category, prompts)
        rows = _judged(study, required[2], at, base_url, key_variable, output)
        counting["rules"] = study.rules
    boards = leaderboard(rows, **counting)
    styled = _styled(rows, answers, control, counting) if control else {}
    if as_json:
        return show.json_lines(_entries(boards, styled))
    for name, standings in boards.items():
        _print(name, counting["rules"], standings)
        if name in styled:
            _print(f"{name}, at equal {' and '.join(control or ())}", counting["rules"], styled[name].standings)
            coefficients = ", ".join(f"{key} {value:+.3f}" for key, value in styled[name].coefficients.items())
            show.remarks("style", [f"{name}: log-odds of one standard deviation: {coefficients}"])


def _study(
    questions: str,
    answers: list[Path],
    rules: Any,
    baselines: dict[str, str],
    categories: list[str] | None,
    prompts: Path | None,
) -> ArenaStudy:
    from rayalign.evaluation.arena_files import read_answers, read_questions
    from rayalign.evaluation.arena_prompts import read_arena_prompts
    from rayalign.evaluation.arena_run import ArenaStudy

    every_question = read_questions(questions)
    names = {question.category: None for question in every_question}
    missing = [name for name in categories or () if name not in names]
    if missing:
        raise InputError(f"arena-hard: no question is in the category {', '.join(missing)}; known: {', '.join(names)}")
    chosen = [question for question in every_question if categories is None or question.category in categories]
    models = read_answers(answers)
    return ArenaStudy(chosen, models, rules or chosen[0].form, read_arena_prompts(prompts), baselines)


def _judged(
    study: ArenaStudy, judge: str, at: str | None, base_url: str | None, key_variable: str, output: Path
) -> list[Row]:
    from rayalign.evaluation.arena_run import MAX_TOKENS, judge_arena, with_facts
    from rayalign.evaluation.bench_run import run_with

    opened = options.judge_for(judge, at, base_url, key_variable, MAX_TOKENS[study.rules])
    judged = run_with(opened, lambda: judge_arena(study, opened, output))
    options.remarks(judged, study.notes())
    return with_facts(judged.rows, study)


def _existing(paths: Sequence[Path], baselines: dict[str, str]) -> list[Row]:
    from rayalign.evaluation.arena_files import read_judgments
    from rayalign.evaluation.arena_games import category_of

    rows: list[Row] = []
    for path in paths:
        for row in read_judgments(path):
            name = baselines.get(category_of(row)) or baselines.get("")
            rows.append({**row, "baseline": row.get("baseline") or name} if name else row)
    return rows


def _baselines(values: list[str] | None) -> dict[str, str]:
    """Category -> baseline; the empty text stands for all categories."""
    baselines = {}
    for value in values or ():
        category, separator, model = value.rpartition("=")
        if not model or (separator and not category):
            raise InputError(f"arena-hard: --baseline takes MODEL or CATEGORY=MODEL, not {value!r}")
        baselines[category] = model
    return baselines


def _styled(rows: Sequence[Row], answers: list[Path] | None, control: list[str], counting: dict[str, Any]) -> Any:
    from rayalign.evaluation.arena_files import read_answers, styles_of
    from rayalign.evaluation.arena_hard import style_controlled

    if not answers:
        raise InputError("arena-hard: --control needs --answers, whose style it reads")
    return style_controlled(rows, styles_of(read_answers(answers)), control=control, **counting)


def _entries(boards: dict[str, Any], styled: dict[str, Any]) -> list[Figures]:
    entries = []
    for category, standings in boards.items():
        entry: Figures = {"category": category, "standings": standings}
        if category in styled:
            controlled = styled[category]
            entry |= {"controlled": controlled.standings, "coefficients": controlled.coefficients}
        entries.append(entry)
    return entries


def _print(title: str, rules: str, standings: Sequence[Any]) -> None:
    rows = []
    for entry in standings:
        figures = show.plain(entry)
        published = show.figure(figures["score"])
        if figures["lower"] is not None:
            published += f" [{show.figure(figures['lower'])}, {show.figure(figures['upper'])}]"
        by_prompt = show.spread(figures["interval"]) if figures["interval"] else ""
        row = [entry.model, published, by_prompt, str(entry.n), str(entry.null)]
        rows.append([*row, show.figure(figures["rating"], 0)] if rules == "v0.1" else row)
    width = 95 if rules == "v0.1" else 90
    headings = [title, f"score, {width}% as published", "95% by prompt", "judgments", "null"]
    show.table([*headings, "rating"] if rules == "v0.1" else headings, rows)
