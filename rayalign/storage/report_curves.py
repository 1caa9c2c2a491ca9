"""The learning curves of a run: the stages of one family overlaid in one chart for each metric.

metrics.jsonl of each stage -> family: pretraining, reward models, rows, pairs, online -> a chart a metric
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rayalign.storage.metrics import read_metrics
from rayalign.storage.report_plots import Point, Ranges, Series, chart, legend, styles
from rayalign.storage.summary import read_done

Row = dict[str, Any]
GOLD = "gold/utility"
"""metric of an iteration: the mean gold utility of the answers that it trained on"""
CURVES = (
    GOLD,
    "reward/mean",
    "reward/std",
    "reward/zero_variance",
    "kl/reference",
    "policy/entropy",
    "rollout/entropy",
    "policy/approx_kl",
    "policy/clip_fraction",
    "rollout/length_p50",
    "rollout/length_p95",
    "rollout/eos_rate",
    "loss/",
    "eval/loss",
    "reward/",
    "eval/reward/",
    "preference/",
    "rrhf/",
    "kto/",
    "quark/",
    "critic/explained_variance",
    "learner/learning_rate",
    "learner/grad_norm",
    "critic/grad_norm",
)
"""names and areas of the metrics that are drawn first, in this order; the others follow, folded in"""
_ELSEWHERE = ("phase/", "eval/epoch")
"""names and areas of the metrics that are no curves"""
FAMILIES = {
    "online": "Online training",
    "pairs": "Training on pairs",
    "rows": "Training on rows",
    "reward": "Reward models",
    "pretrain": "Pretraining",
}
FRONTIER = ("kl/reference", "reward/mean")


def stage_metrics(folder: Path) -> list[Row]:
    """The metrics of each step of a stage, with the gold of the iterations where it is known."""
    rows = read_metrics(folder / "metrics.jsonl")
    gold = (read_done(folder) or {}).get("gold_by_iteration", {})
    for row in rows:
        if str(row["step"]) in gold:
            row["metrics"][GOLD] = gold[str(row["step"])]
    return rows


def curves_section(
    metrics: Mapping[str, Sequence[Row]], kinds: Mapping[str, str], ranges: Mapping[str, Ranges] | None = None
) -> str:
    """All charts of a run, or of several.

    Args:
        metrics: rows {step, metrics} of each stage.
        kinds: the kind of each stage.
        ranges: for each metric the stages of which a range is drawn around the curve.
    """
    families: dict[str, dict[str, Sequence[Row]]] = {}
    for stage, rows in metrics.items():
        families.setdefault(_family(kinds.get(stage, ""), rows), {})[stage] = rows
    parts = [
        _family_charts(title, families[family], ranges or {})
        for family, title in FAMILIES.items()
        if family in families
    ]
    body = "".join(parts)
    return f"<h2>Learning curves</h2>{body}" if body else ""


def _family(kind: str, rows: Sequence[Row]) -> str:
    names = _names(rows)
    if kind == "pretrain":
        return "pretrain"
    if any(name.startswith("rollout/") for name in names):
        return "online"
    if "loss/reward" in names:
        return "reward"
    if any(name.startswith(("preference/", "kto/")) for name in names):
        return "pairs"
    return "rows"


def _names(rows: Sequence[Row]) -> set[str]:
    return set().union(*(row["metrics"] for row in rows))


def _family_charts(title: str, stages: Mapping[str, Sequence[Row]], ranges: Mapping[str, Ranges]) -> str:
    own_styles = styles(list(stages))
    main, further = _curve_names(stages)
    charts = "".join(_metric_charts(main, stages, own_styles, ranges))
    frontier = _frontier(stages)
    if frontier:
        charts += chart("reward/mean against kl/reference", frontier, own_styles, over="KL")
    more = _metric_charts(further, stages, own_styles, ranges)
    if not charts and not more:
        return ""
    names = legend(own_styles) if len(stages) > 1 else f'<p class="soft">{escape(next(iter(stages)))}</p>'
    folded = ""
    if more:
        grid = f'<div class="grid">{"".join(more)}</div>'
        folded = f"<details><summary>Further metrics ({len(more)})</summary>{grid}</details>"
    return f'<h3>{escape(title)}</h3>{names}<div class="grid">{charts}</div>{folded}'


def _metric_charts(
    names: Sequence[str],
    stages: Mapping[str, Sequence[Row]],
    own_styles: Mapping[str, str],
    ranges: Mapping[str, Ranges],
) -> list[str]:
    """A chart for each metric that a stage has a value of."""
    charts = []
    for name in names:
        series: dict[str, list[Point]] = {}
        for stage, rows in stages.items():
            points = [(row["step"], row["metrics"].get(name)) for row in rows]
            present = [(step, value) for step, value in points if value is not None]
            if present:
                series[stage] = present
        if series:
            charts.append(chart(name, series, own_styles, ranges=ranges.get(name)))
    return charts


def _frontier(stages: Mapping[str, Sequence[Row]]) -> Series:
    """Points of KL and reward."""
    series: dict[str, list[Point]] = {}
    for stage, rows in stages.items():
        points: list[Point] = []
        for row in rows:
            kl, reward = (row["metrics"].get(name) for name in FRONTIER)
            if kl is not None and reward is not None:
                points.append((kl, reward))
        if points:
            series[stage] = points
    return series


def _curve_names(stages: Mapping[str, Sequence[Row]]) -> tuple[list[str], list[str]]:
    """The metrics to draw, each once: first those of `CURVES` in their order, then all others."""
    names = sorted(set().union(*(_names(rows) for rows in stages.values())))
    curves: dict[str, None] = {}
    for start in CURVES:
        curves |= dict.fromkeys(name for name in names if _fits(name, start))
    others = [name for name in names if name not in curves]
    return list(curves), [name for name in others if not any(_fits(name, start) for start in _ELSEWHERE)]


def _fits(name: str, start: str) -> bool:
    """Whether a metric is the named one, or is in the named area."""
    return name.startswith(start) if start.endswith("/") else name == start
