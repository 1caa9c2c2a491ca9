"""How prompts were evolved in each stage: what came out, what was refused, and what each true difficulty taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayalign.storage.report_plots import number
from rayalign.storage.report_table import html_table
from rayalign.storage.summary import read_done

Row = Mapping[str, Any]
COLUMNS = ("new prompts", "refused", "value", "of the selected", "difficulty", "distinct pairs of words")


def evolution_tables(folders: Mapping[str, Path]) -> str:
    """A table of all stages that evolved prompts, and one of what prompts taught by their true difficulty."""
    stages: dict[str, Row] = {}
    for name, folder in folders.items():
        figures = read_done(folder)
        if figures is not None and "ancestor_words" in figures:
            stages[name] = figures
    if not stages:
        return ""
    overview = html_table(("stage", *COLUMNS), [(name, *_overview(figures)) for name, figures in stages.items()])
    return f"<h2>Evolved prompts</h2>{overview}{_by_difficulty(stages)}"


def _overview(figures: Row) -> Sequence[str]:
    refused = ", ".join(f"{reason} {count}" for reason, count in figures["refused"].items())
    return (
        f"{figures['evolved']} of {figures['rows']}",
        refused or "none",
        number(figures["informativeness"]),
        number(figures["informativeness_selected"]),
        _change(figures["difficulty"]),
        _change(figures["distinct"]),
    )


def _change(values: Row) -> str:
    return f"{number(values['before'])} → {number(values['after'])}"


def _by_difficulty(stages: Mapping[str, Row]) -> str:
    """Mean gap of the rewards of each difficulty before each stage; nothing where no difficulty is known."""
    levels: set[str] = set()
    for figures in stages.values():
        levels |= figures["by_difficulty"].keys()
    if not levels:
        return ""
    columns = sorted(levels)
    rows: list[tuple[str, ...]] = []
    for name, figures in stages.items():
        cells = [_cell(figures["by_difficulty"].get(level)) for level in columns]
        rows.append((name, *cells))
    note = (
        '<p class="soft">Mean gap between the best and the worst reward of the prompts of each true difficulty, before '
        "the stage and whatever it measures (prompts, selected).</p>"
    )
    return html_table(("stage", *(f"difficulty {level}" for level in columns)), rows) + note


def _cell(level: Row | None) -> str:
    if level is None:
        return number(None)
    gap = level.get("gap")  # runs of before it was measured have none
    return f"{number(gap)} ({level['prompts']}, {level['selected']})"
