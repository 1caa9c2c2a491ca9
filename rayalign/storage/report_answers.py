"""Answers to read: of all models to the same prompts, and of one model as it learns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rayalign.storage.dialogues import answer_text
from rayalign.storage.records import read_jsonl
from rayalign.storage.report_plots import number

Row = dict[str, Any]
PROMPTS = 8
FEW = 6
"""answers up to which each prompt shows them at once"""
EMPTY = "(empty answer)"


def rows_of(path: Path) -> Iterable[Row]:
    """The rows of a file that may not exist, or still grow."""
    return read_jsonl(path, growing=True) if path.exists() else ()


def answers_section(folders: Mapping[str, Path], job: Mapping[str, Any]) -> str:
    """The answers of all models of an evaluate stage to the same prompts, spread over the set.

    A baseline whose answer is empty has nothing to read.
    """
    body = ""
    for stage, folder in folders.items():
        path = folder / "records.jsonl"
        first_row = next(iter(rows_of(path)), None)
        if first_row is None or not {"model", "answer"} <= first_row.keys():
            continue
        baselines = job.get("stages", {}).get(stage, {}).get("baselines") or ()
        prompts: dict[str, list[Row]] = {}
        for row in rows_of(path):
            if row["answer"] or row["model"] not in baselines:
                prompts.setdefault(row["prompt_id"], []).append(row)
        spread = list(prompts.values())[:: max(1, len(prompts) // PROMPTS)]
        blocks = ""
        for place, rows in enumerate(spread[:PROMPTS]):
            blocks += _side_by_side(rows, "model", "value", is_open=place == 0 or len(rows) <= FEW)
        body += f"<h2>Answers side by side: {escape(stage)}</h2>{blocks}"
    return body


def samples_section(folders: Mapping[str, Path]) -> str:
    """Prompts that occurred more than once in training: the first answer beside the last."""
    body = ""
    for stage, folder in folders.items():
        prompts: dict[str, list[Row]] = {}
        for row in rows_of(folder / "samples.jsonl"):
            prompts.setdefault(row["prompt"], []).append({**row, "when": f"iteration {row['iteration']}"})
        ends = [(rows[0], rows[-1]) for rows in prompts.values()]
        pairs = [(first, last) for first, last in ends if first["iteration"] < last["iteration"]]
        pairs.sort(key=lambda pair: pair[0]["iteration"] - pair[1]["iteration"])
        blocks = "".join(_side_by_side(pair, "when", "score") for pair in pairs[:PROMPTS])
        body += f"<h2>Samples in training: {escape(stage)}</h2>{blocks}" if blocks else ""
    return body


def _side_by_side(rows: Sequence[Row], label: str, value: str, *, is_open: bool = True) -> str:
    """The answers below their prompt, which folds them."""
    cells = ""
    for row in rows:
        heading = f"{escape(row[label])} · {number(row[value])}"
        text = answer_text(row) or EMPTY
        cells += f'<div class="answer"><span class="soft">{heading}</span>{escape(text)}</div>'
    state = " open" if is_open else ""
    prompt = f'<summary class="prompt">{escape(rows[0]["prompt"])}</summary>'
    return f'<details{state}>{prompt}<div class="grid texts">{cells}</div></details>'
