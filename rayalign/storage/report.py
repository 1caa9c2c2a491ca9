"""A run as one page: report.html needs no other file, and shows as much as there is of an unfinished run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any

import yaml

from rayalign.storage.console import phase_seconds
from rayalign.storage.report_answers import answers_section, rows_of, samples_section
from rayalign.storage.report_best_of import best_of_table
from rayalign.storage.report_curves import curves_section, stage_metrics
from rayalign.storage.report_events import events_table
from rayalign.storage.report_evolution import evolution_tables
from rayalign.storage.report_header import header
from rayalign.storage.report_judges import judges_table
from rayalign.storage.report_methods import methods_table
from rayalign.storage.report_page import write_page
from rayalign.storage.report_plots import PALETTE, number, stacked_bar
from rayalign.storage.report_profiles import criteria_section, profiles_section
from rayalign.storage.report_results import results_section
from rayalign.storage.report_table import Cell, html_table
from rayalign.storage.report_warnings import run_warnings
from rayalign.storage.summary import read_done

Row = dict[str, Any]


def write_report(run: Path) -> Path:
    """Write the report of a run folder, finished or not, and return its path."""
    job = yaml.safe_load(_text(run / "job.yaml")) or {}
    name = str(job.get("name", run.name))
    summary = json.loads(_text(run / "summary.json") or "{}")
    events = list(rows_of(run / "events.jsonl"))
    rows = _stages(run, job, events)
    folders = {str(row["name"]): run / "stages" / str(row["name"]) for row in rows}
    metrics = {stage: stage_metrics(folder) for stage, folder in folders.items() if (folder / "metrics.jsonl").exists()}
    sections = [
        header(name, job, rows, summary, events),
        _warnings(job, summary),
        events_table(events),
        judges_table(summary.get("results", [])),
        best_of_table(summary.get("results", [])),
        profiles_section(summary.get("results", [])),
        criteria_section(summary.get("results", [])),
        methods_table(summary.get("methods", [])),
        results_section(summary.get("results", []), summary.get("comparisons", [])),
        curves_section(metrics, {str(row["name"]): row["kind"] for row in rows}),
        _phases(metrics),
        evolution_tables(folders),
        _stage_table(rows),
        answers_section(folders, job),
        samples_section(folders),
        _job_text(run),
    ]
    return write_page(run / "report.html", name, sections)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _stages(run: Path, job: Mapping[str, Any], events: Sequence[Row]) -> list[Row]:
    """Rows {name, kind, status, seconds, fixed} in the job's order; the times of finished stages only."""
    started = {event["stage"] for event in events if event["event"] == "stage_started"}
    rows = []
    for name, stage in job.get("stages", {}).items():
        finished = read_done(run / "stages" / name)
        row: Row = {"name": name, "kind": stage["kind"], "status": "not started", "seconds": None, "fixed": None}
        if finished:
            times = {"seconds": finished.get("seconds"), "fixed": finished.get("fixed_seconds")}
            row |= {"status": "finished", **times}
        elif name in started:
            row["status"] = "not finished"
        rows.append(row)
    return rows


def _warnings(job: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    items = ""
    for sentence in run_warnings(job, summary.get("results", [])):
        items += f"<li>{escape(sentence)}</li>"
    return f'<h2>Warnings</h2><ul class="doubts">{items}</ul>' if items else ""


def _phases(metrics: Mapping[str, Sequence[Row]]) -> str:
    stage_means = {stage: _phase_means(rows) for stage, rows in metrics.items()}
    longest = Counter[str]()
    for means in stage_means.values():
        longest.update(means)
    if not longest:
        return ""
    order = [phase for phase, _ in longest.most_common() if phase != "unattributed"]
    colours = dict(zip(order, cycle(PALETTE), strict=False)) | {"unattributed": "var(--line)"}
    bars = ""
    for stage, means in stage_means.items():
        if len(means) > 1:  # an offline step has one phase
            bars += stacked_bar(stage, {phase: means[phase] for phase in colours if phase in means}, colours)
    return f'<h2>Where a step’s time goes</h2><p class="soft">Mean of each phase per step.</p>{bars}'


def _phase_means(rows: Sequence[Row]) -> dict[str, float]:
    """Seconds of each phase per step."""
    sums = Counter[str]()
    for row in rows:
        seconds = phase_seconds(row["metrics"])
        sums.update({phase: value for phase, value in seconds.items() if value})
    return {phase: total / len(rows) for phase, total in sums.items()}


def _stage_table(rows: Sequence[Row]) -> str:
    def computing(row: Row) -> str:
        if row["seconds"] is None or row["fixed"] is None:
            return "–"
        return number(row["seconds"] - row["fixed"])

    columns: dict[str, Callable[[Row], str]] = {
        "stage": lambda r: r["name"],
        "kind": lambda r: r["kind"],
        "status": lambda r: r["status"],
        "total [s]": lambda r: number(r["seconds"]),
        "fixed [s]": lambda r: number(r["fixed"]),
        "computing [s]": computing,
    }
    note = '<p class="soft">Fixed: starting processes and loading models. Computing: the rest.</p>'
    return f"<h2>Stages</h2>{_table(columns, rows)}{note}" if rows else ""


def _job_text(run: Path) -> str:
    text = _text(run / "job.yaml")
    return f"<h2>Job</h2><details><summary>job.yaml</summary><pre>{escape(text)}</pre></details>" if text else ""


def _table(columns: Mapping[str, Callable[[Row], str]], rows: Iterable[Row]) -> str:
    """A table; columns of figures are right-aligned."""
    words = {"model", "metric", "stage", "kind", "status"}
    heading = [Cell(name, figure=name not in words) for name in columns]
    lines: list[list[Cell]] = []
    for row in rows:
        cells = [Cell(str(text(row)), figure=name not in words) for name, text in columns.items()]
        lines.append(cells)
    return html_table(heading, lines)
