"""docs/studies/evolving.md, with its plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plots import Series, forest, lines
from benchmarks.study_page import DOCS, difference_cell, run_sentence, spread, table

NAME = "evolving"
Row = Mapping[str, Any]

_TITLE = "# Evolving prompts in the embedded world"
_INTRODUCTION = """\
Three policies go on from the same one (`start`) in three rounds of DPO, at equal samples: six answers to each of 800
prompts in a round, the best and the worst of them as a pair (eva; Ye 2024, arXiv 2411.00062). `fixed` keeps the prompts
of the data. `random` makes a quarter of them harder, drawn evenly. `eva` makes the quarter harder whose rewards lie
furthest apart. The operators are the same, and so is what they may make: no prompt of the evaluation. If `eva` gains
over `fixed` and not over `random`, harder prompts helped, whichever they were."""
_HARD = """\
## Held-out hard prompts

Of true difficulty 3 and 4: three or four conditions at once."""
_USUAL = "## Held-out usual prompts"
_ROUNDS = """\
## The prompts over the rounds

*Difficulty* is how many conditions a prompt composes, in the mean before and after the round. The plot and the last
columns say how much the prompts of each true difficulty taught the policy of that round: the gap between the rewards of
its best and its worst answer. `eva` selects by it, `random` does not. In brackets: how many of the prompts were
selected."""
_METRICS = """\
## Which measure selects best

One round from `start`, at equal samples, on the same hard prompts. `uniform` selects evenly."""


def write_page(results: Row, folder: Path = DOCS) -> None:
    """The page and its plots.

    Args:
        results: as `benchmarks.evolving.figures` returns them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    gains = [row for row in results["arms"]["hard"] if row["model"] not in ("eva", "oracle")]
    title = "gold utility of eva less that of each arm, on hard prompts"
    (folder / f"{NAME}.svg").write_text(forest(gains, "eva_less", title))
    (folder / f"{NAME}_difficulty.svg").write_text(_difficulty_plot(results["rounds"]))
    parts = [
        _TITLE,
        _INTRODUCTION,
        f"`rayalign run {results['job']}`, then `python -m benchmarks.evolving RUN...`. {run_sentence(results)}",
        _HARD,
        f"![Gold utility of eva less that of each arm, with intervals]({NAME}.svg)",
        _arms_table(results["arms"]["hard"]),
        _USUAL,
        _arms_table(results["arms"]["usual"]),
        _ROUNDS,
        f"![Gap of the rewards over the true difficulty, for each round]({NAME}_difficulty.svg)",
        _rounds_table(results["rounds"]),
        _kept_sentence(results["rounds"]),
    ]
    if results["metrics"]:
        ablation = results["metrics"]
        parts += [_METRICS, f"`{ablation['job']}`. {run_sentence(ablation)}", _metrics_table(ablation)]
    text = "\n\n".join(parts)
    (folder / f"{NAME}.md").write_text(f"{text}\n")


def _arms_table(rows: Sequence[Row]) -> str:
    cells = []
    for row in rows:
        cells.append([f"`{row['model']}`", spread(row["gold_utility"]), difference_cell(row.get("eva_less"))])
    return table(["arm", "gold utility", "eva less it"], cells)


def _rounds_table(rows: Sequence[Row]) -> str:
    difficulties = sorted({difficulty for row in rows for difficulty in row["by_difficulty"]})
    heading = ["arm", "round", "evolved", "refused", "difficulty", *(f"teaches, {one}" for one in difficulties)]
    cells = []
    for row in rows:
        taught = [_taught(row["by_difficulty"].get(one)) for one in difficulties]
        difficulty = f"{row['before']:.2f} to {row['after']:.2f}"
        cells.append(
            [
                f"`{row['arm']}`",
                str(row["round"]),
                f"{row['evolved']:.0f}",
                f"{row['refused']:.0f}",
                difficulty,
                *taught,
            ]
        )
    return table(heading, cells)


def _kept_sentence(rows: Sequence[Row]) -> str:
    """How many prompts each arm selected and kept, since the gates make the arms differ in this too."""
    selected: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for row in rows:
        selected[row["arm"]] += round(row["selected"])
        kept[row["arm"]] += round(row["evolved"])
    if len(set(selected.values())) == 1:
        counts = f"In all rounds together equally many prompts were selected in each arm, {max(selected.values())}"
    else:
        counts = f"In all rounds together {_against(selected)} prompts were selected"
    return f"{counts}. After the gates {_against(kept)} new ones were left: the gates refuse differently in each arm."


def _against(counts: Mapping[str, int]) -> str:
    return " against ".join(f"{count} (`{arm}`)" for arm, count in counts.items())


def _difficulty_plot(rows: Sequence[Row]) -> str:
    """A chart for each arm, a line for each round."""
    charts: dict[str, list[Series]] = {}
    for row in rows:
        points = []
        for difficulty, figures in row["by_difficulty"].items():
            if figures["gap"] is not None:
                points.append((float(difficulty), figures["gap"]))
        charts.setdefault(row["arm"], []).append(Series(f"round {row['round']}", points))
    return lines([(f"{arm}: gap", series) for arm, series in charts.items()], "true difficulty, up to")


def _metrics_table(results: Row) -> str:
    cells = []
    for row in results["models"]:
        cells.append([f"`{row['model']}`", spread(row["gold_utility"]), difference_cell(row.get("over_uniform"))])
    return table(["selected by", "gold utility", "over uniform"], cells)


def _taught(row: Row | None) -> str:
    if row is None or row["gap"] is None:
        return ""
    return f"{row['gap']:.2f} ({row['selected']:.0f} of {row['prompts']:.0f})"
