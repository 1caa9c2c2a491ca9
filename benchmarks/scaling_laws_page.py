"""docs/studies/scaling_laws.md and its plot, from the recorded results: python -m benchmarks.scaling_laws_page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plots import Series, lines
from benchmarks.record import RESULTS
from benchmarks.study_page import DOCS, spread, table

Row = Mapping[str, Any]
METHODS = {"best_of_n": "best-of-n", "rl": "PPO"}
VALUES = ("proxy", "gold")
GOOD_FIT = 0.8
"""R^2 below which the page says where a law fails"""
HEADING = [
    "reward model",
    "seed",
    "right on",
    "method",
    "furthest d",
    "gain of",
    "alpha",
    "beta",
    "R²",
    "highest gain",
]
INTRODUCTION = """# Over-optimisation in the embedded world

`python -m benchmarks.scaling_laws` runs `jobs/small/scaling_laws.yaml` and writes this page. The noisy pool compares
hot answers of the fine-tuned model; reward models of two sizes (nano: a million parameters, pico: 0.17 million) learn
from the verdicts on 2,400 (many) or 400 prompts (few). The fine-tuned model is then moved away from itself by
best-of-n and by PPO with almost no KL penalty.

Gao 2022 (arXiv 2210.10760) describes the gain over the distance d by two laws: d (alpha - beta d) for best-of-n, where
the KL is log n - (n - 1) / n, and d (alpha - beta log d) for reinforcement learning. Both are fitted to the proxy,
which is the reward model's score, and to gold, which is the truth. Intervals are bootstraps over prompts.

![Proxy and gold over the distance from the first policy](scaling_laws.svg)"""


def write_page(rows: Sequence[Row], folder: Path = DOCS) -> None:
    """scaling_laws.md and scaling_laws.svg.

    Args:
        rows: the curves, as `benchmarks.scaling_laws.figures` returns them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scaling_laws.svg").write_text(_plot(rows))
    cells = []
    for row in rows:
        cells += [_cells(row, value) for value in VALUES]
    parts = [INTRODUCTION, table(HEADING, cells), _poor_fits(rows), _accuracies(rows)]
    text = "\n\n".join(part for part in parts if part)
    (folder / "scaling_laws.md").write_text(f"{text}\n")


def _plot(rows: Sequence[Row]) -> str:
    """Four charts of the first seed."""
    charts = []
    for form, title in METHODS.items():
        for value in VALUES:
            series = []
            for row in rows:
                if row["method"] == form and row["seed"] == rows[0]["seed"]:
                    points = list(zip(row["distances"], row[value], strict=True))
                    series.append(Series(_name(row), points))
            charts.append((f"{title}: gain of {value}", series))
    return lines(charts, x_label="d = sqrt(KL)")


def _cells(row: Row, value: str) -> list[str]:
    law = row[f"{value}_law"]
    peak = _peak(row, value)
    return [
        _name(row),
        str(row["seed"]),
        f"{100 * row['accuracy']:.1f}%",
        METHODS[row["method"]],
        f"{max(row['distances']):.2f}",
        value,
        spread(law["alpha"]),
        spread(law["beta"]),
        f"{law['r_squared']:.2f}",
        f"{row[value][peak]:.3f} at d = {row['distances'][peak]:.2f}",
    ]


def _poor_fits(rows: Sequence[Row]) -> str:
    """Where the law of PPO fails for gold: at which distance it has the highest gain, and where that was measured."""
    failures = []
    for row in rows:
        law = row["gold_law"]
        if row["method"] != "rl" or law["r_squared"] >= GOOD_FIT:
            continue
        measured = row["distances"][_peak(row, "gold")]
        curve = f"{_name(row)}, seed {row['seed']} (R² {law['r_squared']:.2f})"
        failures.append(f"{curve}, has its highest gain at d = {measured:.2f}, by the law {_expected_peak(law)}")
    if not failures:
        return ""
    return (
        f"Where R² is below {GOOD_FIT}, alpha and beta describe the curve badly. With PPO this is so for gold: "
        f"{'; '.join(failures)}."
    )


def _expected_peak(law: Row) -> str:
    """Where d (alpha - beta log d) is highest."""
    alpha, beta = law["alpha"]["mean"], law["beta"]["mean"]
    return f"at {math.exp(alpha / beta - 1):.2f}" if beta > 0 else "at no distance"


def _accuracies(rows: Sequence[Row]) -> str:
    """Where a reward model that learnt from fewer prompts is right more often."""
    by_model = {(row["seed"], row["reward_model"]): row["accuracy"] for row in rows}
    reversals = []
    for (seed, model), accuracy in by_model.items():
        size, _, data = model.partition("_")
        few = by_model.get((seed, f"{size}_few"), 0.0)
        if data == "many" and few > accuracy:
            reversals.append(f"{size}, seed {seed} ({100 * few:.1f}% with few, {100 * accuracy:.1f}% with many)")
    sentence = (
        "*Right on* is the share of held-out verdicts of the noisy pool that a reward model predicts. They come from a "
        "tenth of its own prompts, 240 for many and 40 for few, so the shares for few are coarse."
    )
    if not reversals:
        return sentence
    return (
        f"{sentence} Fewer prompts look better for {', '.join(reversals)}. "
        "The gains of gold compare the reward models on the same prompts."
    )


def _peak(row: Row, value: str) -> int:
    """The place of the highest gain."""
    gains = row[value]
    return max(range(len(gains)), key=lambda place: gains[place])


def _name(row: Row) -> str:
    return str(row["reward_model"]).replace("_", ", ")


if __name__ == "__main__":
    write_page(json.loads((RESULTS / "scaling_laws.json").read_text())["curves"])
