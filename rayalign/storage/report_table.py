"""The table of a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rayalign.storage.report_plots import number


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table."""

    text: str
    figure: bool = False
    """figures stand at the right"""
    style: str = ""
    title: str = ""
    """what is shown where the pointer rests"""
    interval: str = ""
    """an interval after the text; below it on a narrow page"""
    note: str = ""
    """a warning after the text"""


def figure(text: str) -> Cell:
    """A cell with a figure."""
    return Cell(text, figure=True)


def estimate(row: Mapping[str, Any], title: str = "") -> Cell:
    """The mean of a row with its interval, where it has one."""
    interval = "" if row["low"] is None else f"({number(row['low'])} to {number(row['high'])})"
    return Cell(number(row["mean"]), figure=True, interval=interval, title=title)


def html_table(heading: Sequence[str | Cell], rows: Iterable[Sequence[str | Cell]]) -> str:
    """A table that scrolls on a narrow page; all texts are escaped here."""
    lines = ["".join(_cell("th", cell) for cell in heading)]
    for row in rows:
        lines.append("".join(_cell("td", cell) for cell in row))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table>{body}</table></div>'


def missing_notes(rows: Sequence[Mapping[str, Any]]) -> str:
    """Why the figures of some models rest on fewer prompts."""
    models_by_note: dict[str, list[str]] = {}
    for row in rows:
        if row.get("note"):
            models_by_note.setdefault(row["note"], []).append(row["name"])
    sentences = [f"{', '.join(names)}: {note}." for note, names in models_by_note.items()]
    return f'<p class="soft">{escape(" ".join(sentences))}</p>' if sentences else ""


def _cell(tag: str, cell: str | Cell) -> str:
    if isinstance(cell, str):
        return f"<{tag}>{escape(cell)}</{tag}>"
    attributes = ' class="n"' if cell.figure else ""
    if cell.style:
        attributes += f' style="{escape(cell.style)}"'
    if cell.title:
        attributes += f' title="{escape(cell.title)}"'
    interval = f' <span class="range">{escape(cell.interval)}</span>' if cell.interval else ""
    note = f' <span class="note">{escape(cell.note)}</span>' if cell.note else ""
    return f"<{tag}{attributes}>{escape(cell.text)}{interval}{note}</{tag}>"
