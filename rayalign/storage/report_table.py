"""The table of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table."""

    text: str
    figure: bool = False
    """figures stand at the right"""
    style: str = ""
    title: str = ""
    """what is shown where the pointer rests"""


def figure(text: str) -> Cell:
    """A cell with a figure."""
    return Cell(text, figure=True)


def html_table(heading: Sequence[str | Cell], rows: Iterable[Sequence[str | Cell]]) -> str:
    """A table that scrolls on a narrow page; all texts are escaped here."""
    lines = ["".join(_cell("th", cell) for cell in heading)]
    for row in rows:
        lines.append("".join(_cell("td", cell) for cell in row))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table>{body}</table></div>'


def _cell(tag: str, cell: str | Cell) -> str:
    if isinstance(cell, str):
        return f"<{tag}>{escape(cell)}</{tag}>"
    attributes = ' class="n"' if cell.figure else ""
    if cell.style:
        attributes += f' style="{escape(cell.style)}"'
    if cell.title:
        attributes += f' title="{escape(cell.title)}"'
    return f"<{tag}{attributes}>{escape(cell.text)}</{tag}>"
