"""What the tests of the benchmarks' commands share: calls of a command, answers, and a judge of pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from rayalign.cli import app
from rayalign.evaluation import mt_bench_files


def call(command: str, *arguments: object) -> Result:
    """Run `rayalign evaluate COMMAND`, with a key for endpoints."""
    environment = {"OPENAI_API_KEY": "a key"}
    return CliRunner().invoke(app, ["evaluate", command, *map(str, arguments)], env=environment)


def lines(result: Result) -> list[dict[str, Any]]:
    """The JSON lines of a command that succeeded."""
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def by_model(result: Result) -> dict[str, dict[str, Any]]:
    """The figures of each model."""
    return {entry["model"]: entry for entry in lines(result)}


def answer_turns(folder: Path, model: str, turns: dict[int | str, tuple[str, ...]]) -> None:
    """Write a model's answers to MT-Bench."""
    path = folder / "model_answer" / f"{model}.jsonl"
    mt_bench_files.write_answers(path, mt_bench_files.Answers(model, turns), tstamp=1.0)


def prefer(messages: Sequence[dict[str, str]]) -> str:
    """Prefers the better word, and between others the first answer."""
    text = messages[-1]["content"]
    a, b = text.partition("assistant B")[0], text.partition("assistant B")[2]
    if "excellent" in a or "poor" in b:
        return "[[A]]"
    return "[[B]]" if "excellent" in b or "poor" in a else "[[A]] since it came first"
