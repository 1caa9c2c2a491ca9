"""Options that the commands of benchmarks share, and the notes that they print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayalign.cli import show
from rayalign.errors import InputError, RayalignError

if TYPE_CHECKING:
    from rayalign.evaluation.bench_judge import BenchJudge
    from rayalign.evaluation.bench_run import Judged

Questions = Annotated[str | None, typer.Option(help="A question file, or a data set of the hub.", show_default=False)]
AnswerFiles = Annotated[
    list[Path] | None, typer.Option(help="A model's answers, or a folder of such files; may be repeated.")
]
Judge = Annotated[
    str | None, typer.Option(help="An annotator of --at, or the model at --base-url.", show_default=False)
]
BaseUrl = Annotated[str | None, typer.Option(help="An OpenAI-compatible endpoint, in the place of --at.")]
KeyVariable = Annotated[str, typer.Option(help="The environment variable with the endpoint's key.")]
Judgments = Annotated[
    list[Path] | None, typer.Option(help="Existing judgments to count; no judge is called. May be repeated.")
]


def judge_for(name: str, at: str | None, base_url: str | None, key_variable: str, max_tokens: int) -> BenchJudge:
    """The judge of a command."""
    from rayalign.evaluation.bench_judge import JudgeChoice, open_judge

    if at is not None and base_url is not None:
        raise InputError("give either --at or --base-url")
    return open_judge(JudgeChoice(name, at, base_url, key_variable), max_tokens=max_tokens)


def needed(
    command: str, questions: str | None, answers: list[Path] | None, judge: str | None
) -> tuple[str, list[Path], str]:
    """The options without which nothing can be judged; raises InputError where one is missing."""
    if questions is None or not answers or judge is None:
        raise InputError(f"{command}: give --questions, --answers and --judge, or --judgments to count existing ones")
    return questions, answers, judge


def remarks(judged: Judged, notes: list[str]) -> None:
    """Print what is missing and what the judging cost, on stderr.

    Raises:
        RayalignError: no match has a judgment.
    """
    show.remarks("note", notes)
    for reason, count in judged.failures.most_common():
        show.remarks("no reply", [f"{count} judgments: {reason}; the same command tries them again"])
    if not judged.rows:
        raise RayalignError("no judgment was made; look at the reasons above, or at the answers' question ids")
    counts = f"{len(judged.rows) - judged.earlier} new judgments, {judged.earlier} from earlier"
    costs = [f"${judged.price:.4f}"] if judged.price else []
    if judged.seconds:
        costs.append(f"{judged.seconds:.0f} s of the judge")
    total = f"; in all {', '.join(costs)}" if costs else ""
    show.remarks("note", [counts + total])
