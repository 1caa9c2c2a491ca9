"""Several runs on one page: figures, paired differences, overlaid curves, and in which settings their jobs differ."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rayalign.evaluation.run_curves import Job, run_curves, run_job, seed_groups
from rayalign.evaluation.run_tables import Difference, Spread, differences, run_names, spreads
from rayalign.storage.records import finite
from rayalign.storage.report_curves import curves_section
from rayalign.storage.report_page import write_page
from rayalign.storage.report_plots import forest, number
from rayalign.storage.report_results import FEW, metric_heading
from rayalign.storage.report_table import Cell, figure, html_table

_UNLIKE = frozenset({"name", "output"})
"""fields in which all runs differ"""
_ABSENT = "–"
_BAND = "A curve over several seeds is their mean, within the lowest and the highest value of each step."


def write_comparison(runs: Sequence[Path], path: Path) -> Path:
    """Write the page and return its path.

    Raises:
        InputError: a folder is no run's, or a run is named twice.
    """
    curves = run_curves(runs)
    has_seeds = any(len(members) > 1 for members in seed_groups(runs).values())
    names = list(run_names(runs))
    sections = [
        f'<h1>{escape(", ".join(names))}</h1><p class="soft">{len(runs)} runs side by side</p>',
        _figures(spreads(runs)),
        _differences(differences(runs)),
        curves_section(curves.metrics, curves.kinds, curves.ranges),
        f'<p class="soft">{_BAND}</p>' if has_seeds else "",
        _settings({name: run_job(run) for name, run in run_names(runs).items()}),
    ]
    return write_page(path, f"{len(runs)} runs", sections)


def _settings(jobs: Mapping[str, Job]) -> str:
    """A table of the settings that are not the same in all jobs; of stages, only those that all jobs have."""
    stages = [list(job["stages"]) for job in jobs.values()]
    shared = set(stages[0]).intersection(*stages)
    flat_jobs = [{"stages": ", ".join(job["stages"])} | _flat(job, shared) for job in jobs.values()]
    keys: dict[str, None] = {}
    for settings in flat_jobs:
        keys |= dict.fromkeys(settings)
    lines: list[list[str | Cell]] = []
    for key in keys:
        values = [settings.get(key, _ABSENT) for settings in flat_jobs]
        if key not in _UNLIKE and len(set(values)) > 1:
            lines.append([key, *values])
    if not lines:
        return ""
    state = " open" if len(lines) <= FEW else ""
    table = html_table(["setting", *jobs], lines)
    return f"<h2>Settings that differ</h2><details{state}><summary>{len(lines)} settings</summary>{table}</details>"


def _flat(job: Job, stages: Collection[str]) -> dict[str, str]:
    """Each setting of the job and of these stages by its path, such as `stages.ppo.iterations`."""
    chosen = {name: section for name, section in job["stages"].items() if name in stages}
    return _flat_section({**job, "stages": chosen})


def _flat_section(section: Mapping[str, Any], before: str = "") -> dict[str, str]:
    settings: dict[str, str] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            settings |= _flat_section(value, f"{before}{key}.")
        else:
            settings[f"{before}{key}"] = str(value)
    return settings


def _figures(rows: Sequence[Spread]) -> str:
    by_metric: dict[str, list[Spread]] = {}
    for row in rows:
        by_metric.setdefault(row.metric, []).append(row)
    heading: list[str | Cell] = ["model", figure("mean, lowest to highest"), figure("deviation"), figure("runs")]
    tables = ""
    for metric, own in by_metric.items():
        lines: list[list[str | Cell]] = []
        for row in own:
            mean = Cell(number(row.mean), figure=True, interval=_range(row))
            lines.append([row.name, mean, figure(number(row.deviation)), figure(number(row.runs))])
        tables += f"<h3>{metric_heading(metric)}</h3>{html_table(heading, lines)}"
    note = '<p class="soft">Mean, deviation and range are over runs.</p>'
    return f"<h2>Figures over runs</h2>{note}{tables}" if tables else ""


def _range(row: Spread) -> str:
    return f"({number(row.lowest)} to {number(row.highest)})" if row.runs > 1 else ""


def _differences(rows: Sequence[Difference]) -> str:
    if not rows:
        return ""
    labelled = []
    for row in rows:
        label = f"{row.name}: {row.b} − {row.a} ({number(row.interval.n)} prompts)"
        labelled.append({"label": label, **finite(row.interval._asdict())})
    note = '<p class="soft">The same model in two runs, on the prompts that both measured, with 95 % intervals.</p>'
    return f"<h2>Paired differences</h2>{note}{forest(labelled)}"
