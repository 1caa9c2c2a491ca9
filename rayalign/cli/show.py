"""Output of the commands: JSON lines, or tables for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer

_WIDTH = 400
"""columns; the table uses as many as it needs"""


def plain(value: Any) -> Any:
    """The value as JSON can hold it: named tuples as objects, NaN as null."""
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_lines(entries: Iterable[Any]) -> None:
    """One JSON object a line."""
    for entry in entries:
        typer.echo(json.dumps(plain(entry), ensure_ascii=False, allow_nan=False))


def figure(value: float | None, digits: int = 1) -> str:
    """A number; an empty text where it is absent."""
    return "" if value is None else f"{value:.{digits}f}"


def spread(row: Mapping[str, Any], key: str = "mean", digits: int = 1) -> str:
    """A figure with its interval where there is one."""
    number = figure(row[key], digits)
    if row["low"] is None:
        return number
    return f"{number} [{figure(row['low'], digits)}, {figure(row['high'], digits)}]"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> None:
    """A table without lines between rows, `words` columns before the figures; as wide as its cells need.

    A narrower terminal folds it rather than lose a figure.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=box.SIMPLE, pad_edge=False)
    for index, heading in enumerate(headings):
        shown.add_column(heading, justify="left" if index < words else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    Console(highlight=False, markup=False, emoji=False, width=_WIDTH).print(shown)  # a name may hold brackets or colons


def remarks(kind: str, texts: Iterable[str]) -> None:
    """Notes on the figures, on stderr."""
    for text in texts:
        typer.echo(f"{kind}: {text}", err=True)
