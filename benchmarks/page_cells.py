"""Cells of the tables of benchmarks/README.md."""

from __future__ import annotations


def number(value: float | None) -> str:
    """Three digits that count; whole from 100 on."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def at_most(value: float, limit: float) -> str:
    """A figure, in bold where it is above its limit."""
    return number(value) if value <= limit else f"**{number(value)}**"


def at_least(value: float, limit: float) -> str:
    """A figure, in bold where it is below its limit."""
    return number(value) if value >= limit else f"**{number(value)}**"


def percent(share: float) -> str:
    """A share as a whole percentage."""
    return f"{100 * share:.0f}%"


def gibibytes(count: float) -> str:
    """A number of bytes."""
    return number(count / 2**30)
