"""RRHF's table of sampling settings (Yuan 2023, arXiv 2304.05302, tables 2 and 6), of jobs/small/rrhf.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.plots import Series, lines
from benchmarks.study_values import difference, read_values
from rayalign.statistics.ranks import rank_correlation

SETTINGS = {
    "sft": "none",
    "p": "two that the data provides",
    "d": "drawn by diverse beam search",
    "bp": "beam search, and those of `p`",
    "dp": "diverse beam search, and those of `p`",
    "no_rank": "as `dp`, without the rank term",
    "sp": "drawn by temperature, and those of `p`",
    "ip2": "`dp` once more, from its own policy",
    "od_4": "online, with a penalty on the KL divergence",
    "ppo": "online",
}
"""model -> where the candidates that it learnt from came from"""
RRHF = ("p", "d", "bp", "dp", "sp", "ip2", "od_4")
"""the settings of the whole loss, whose test reward should follow the maxima of their samples"""
COLUMNS = {
    "models": "models",
    "perplexity": "perplexity",
    "reward": "test reward",
    "samples_mean": "mean of the samples",
    "samples_deviation": "deviation",
    "samples_maximum": "mean of the maxima",
    "gold_utility": "gold utility",
    "drawing": "drawing [s]",
    "training": "training [s]",
}
"""field of a summary's methods -> heading"""
_DIGITS = {"models": 0, "perplexity": 1, "drawing": 0, "training": 0}
Row = Mapping[str, Any]


def sampling_figures(settings: Row, folders: Mapping[int, Path], summaries: Mapping[int, Row]) -> dict[str, Any]:
    """The table, and what it says of the paper's two claims.

    Args:
        settings: the rows, in their order.
    """
    by_seed = {seed: _method_rows(summary) for seed, summary in summaries.items()}
    rewards, utilities = read_values("reward", folders), read_values("gold", folders)
    return {
        "rows": [_means(name, candidates, list(by_seed.values())) for name, candidates in settings.items()],
        "reward_follows_maxima": {seed: _reward_follows_maxima(rows) for seed, rows in by_seed.items()},
        "without_rank_term": {
            "reward": difference(rewards, "no_rank", "dp"),
            "gold_utility": difference(utilities, "no_rank", "dp"),
        },
        "reward_model_accuracy": {seed: _accuracy(summary) for seed, summary in summaries.items()},
    }


def _method_rows(summary: Row) -> dict[str, Row]:
    return {row["name"]: row for row in summary["methods"]}


def _means(name: str, candidates: str, seeds: Sequence[Mapping[str, Row]]) -> dict[str, Any]:
    """The means over seeds of each column; one that no seed has is None."""
    row: dict[str, Any] = {"name": name, "candidates": candidates}
    for column in COLUMNS:
        values = [rows[name].get(column) for rows in seeds]
        present = [value for value in values if value is not None]
        row[column] = fmean(present) if present else None
    return row


def _reward_follows_maxima(rows: Mapping[str, Row]) -> float:
    """Spearman's correlation, over RRHF's settings, of the test reward with the mean of the maxima."""
    rewards = [rows[name]["reward"] for name in RRHF]
    maxima = [rows[name]["samples_maximum"] for name in RRHF]
    return rank_correlation(rewards, maxima)


def _accuracy(summary: Row) -> dict[str, float]:
    """Of the reward model, on held-out pairs."""
    [row] = [row for row in summary["results"] if row["metric"] == "reward_accuracy"]
    return {name: row[name] for name in ("mean", "low", "high")}


def table_rows(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Heading and cells of the paper's table."""
    cells = []
    for row in rows:
        line = [f"`{row['name']}`", row["candidates"]]
        for column in COLUMNS:
            digits = _DIGITS.get(column, 3)
            line.append("" if row[column] is None else f"{row[column]:.{digits}f}")
        cells.append(line)
    return ["setting", "candidates", *COLUMNS.values()], cells


def findings(sampling: Row) -> str:
    """The paper's two claims, and how far the reward model can be trusted, as sentences with figures."""
    correlations = ", ".join(f"{rho:.2f}" for rho in sampling["reward_follows_maxima"].values())
    without = sampling["without_rank_term"]
    shares = sampling["reward_model_accuracy"].values()
    accuracies = ", ".join(f"{100 * a['mean']:.0f}% [{100 * a['low']:.0f}, {100 * a['high']:.0f}]" for a in shares)
    return (
        f"- *The test reward and the best candidate.* Spearman's correlation of the test reward with the mean of the "
        f"maxima, over {len(RRHF)} settings of the whole loss (each seed): {correlations}. The paper calls RRHF an "
        f"approximation of best-of-n.\n"
        f"- *The rank term.* Without it the test reward changes by {_change(without['reward'])}, and the gold utility "
        f"by {_change(without['gold_utility'])}.\n"
        f"- *Reward is not utility.* The reward model prefers the better of two unseen answers in {accuracies} of the "
        f"cases (each seed)."
    )


def _change(interval: Row) -> str:
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def maxima_plot(rows: Sequence[Row]) -> str:
    """The test reward of each setting over the mean of its maxima."""
    of_rrhf = [row for row in rows if row["name"] in RRHF]
    points = [(row["samples_maximum"], row["reward"]) for row in of_rrhf]
    return lines([("test reward", [Series("RRHF's settings", points)])], "mean of the maxima, up to")
