"""A run as one page: report.html needs no other file, and shows as much as there is of an unfinished run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any

import yaml

from rayalign.statistics.doubts import reward_doubts
from rayalign.storage.metrics import phase_seconds, read_metrics
from rayalign.storage.records import atomic_write, read_jsonl
from rayalign.storage.report_best_of import best_of_table
from rayalign.storage.report_evolution import evolution_tables
from rayalign.storage.report_judges import judges_table
from rayalign.storage.report_methods import methods_table
from rayalign.storage.report_plots import PALETTE, forest, line_chart, number, stacked_bar
from rayalign.storage.report_profiles import is_of_profile, profiles_section
from rayalign.storage.report_table import Cell, html_table
from rayalign.storage.summary import read_done

Row = dict[str, Any]
CURVES = (
    "reward/",
    "eval/",
    "kl/reference",
    "policy/entropy",
    "rollout/length_p50",
    "rollout/eos_rate",
    "loss/",
    "critic/",
)
PROMPTS = 8
STYLE = Path(__file__).with_name("report.css")
_META = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'


def write_report(run: Path) -> Path:
    """Write the report of a run folder, finished or not, and return its path."""
    job = yaml.safe_load(_text(run / "job.yaml")) or {}
    name = str(job.get("name", run.name))
    summary = json.loads(_text(run / "summary.json") or "{}")
    events = list(_rows_of(run / "events.jsonl"))
    rows = _stages(run, job, events)
    folders = {str(row["name"]): run / "stages" / str(row["name"]) for row in rows}
    metrics = {}
    for stage, folder in folders.items():
        if (folder / "metrics.jsonl").exists():
            metrics[stage] = read_metrics(folder / "metrics.jsonl")
    sections = [
        _header(name, job, rows, summary, events),
        _doubts(job, summary),
        judges_table(summary.get("results", [])),
        best_of_table(summary.get("results", [])),
        profiles_section(summary.get("results", [])),
        methods_table(summary.get("methods", [])),
        _results(summary),
        _curves(metrics),
        _phases(metrics),
        evolution_tables(folders),
        _stage_table(rows),
        _answers(folders),
        _samples(folders),
        _job_text(run),
    ]
    head = f"<head>{_META}<title>{escape(name)}</title><style>{_text(STYLE)}</style></head>"
    body = "\n".join(section for section in sections if section)
    atomic_write(run / "report.html", [f'<!doctype html>\n<html lang="en">{head}\n<body>\n{body}\n</body></html>\n'])
    return run / "report.html"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _rows_of(path: Path) -> Iterable[Row]:
    return read_jsonl(path, growing=True) if path.exists() else ()


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


def _header(
    name: str, job: Mapping[str, Any], rows: Sequence[Row], summary: Mapping[str, Any], events: Sequence[Row]
) -> str:
    finished = sum(row["status"] == "finished" for row in rows)
    all_finished = rows and finished == len(rows)
    facts = ["finished" if all_finished else f"not finished: {finished} of {len(rows)} stages"]
    facts.append(f"seed {job.get('seed', '–')}")
    if events:
        facts.append(f"started {datetime.fromtimestamp(events[0]['time']):%Y-%m-%d %H:%M}")
    facts.append(f"reported {datetime.now():%Y-%m-%d %H:%M}")
    if summary.get("peak_memory_bytes"):
        facts.append(f"peak memory {summary['peak_memory_bytes'] / 2**30:.1f} GiB")
    return f'<h1>{escape(name)}</h1><p class="soft">{escape(" · ".join(facts))}</p>'


def _doubts(job: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """What speaks against the run's reward models, and which stages rest on them; before any figure of these."""
    items = ""
    for name, sentences in reward_doubts(summary.get("results", [])).items():
        dependent = [stage for stage, section in job.get("stages", {}).items() if _mentions(section, f"stage:{name}")]
        rest = f" The results of {', '.join(dependent)} depend on it and may be meaningless." if dependent else ""
        items += f"<li>{escape(' '.join(sentences) + rest)}</li>"
    return f'<h2>Warnings</h2><ul class="doubts">{items}</ul>' if items else ""


def _mentions(section: Any, model: str) -> bool:
    """Whether any value of a stage, however deep, names a model."""
    if isinstance(section, Mapping):
        return any(_mentions(value, model) for value in section.values())
    if isinstance(section, list | tuple):
        return any(_mentions(value, model) for value in section)
    return bool(section == model)


def _results(summary: Mapping[str, Any]) -> str:
    results, comparisons = summary.get("results", []), summary.get("comparisons", [])
    results = [row for row in results if not is_of_profile(row)]  # they have their heat maps
    if not results and not comparisons:
        return ""
    columns: dict[str, Callable[[Row], str]] = {
        "model": lambda r: r["name"],
        "metric": lambda r: r["metric"],
        "mean": lambda r: number(r["mean"]),
        "95 % interval": lambda r: f"{number(r['low'])} to {number(r['high'])}",
        "prompts": lambda r: number(r["n"]),
    }
    plots = ""
    by_metric: dict[tuple[str, int], list[Row]] = {}
    for row in comparisons:
        labelled = {**row, "label": f"{row['a']} − {row['b']}", "mean": row["mean_difference"]}
        by_metric.setdefault((row["metric"], row["n"]), []).append(labelled)
    for (metric, n), rows in by_metric.items():
        plots += f"<h3>Differences in {escape(metric)} on the same {number(n)} prompts, with 95 % intervals</h3>"
        plots += forest(rows)
    return f"<h2>Comparison</h2>{_table(columns, results)}{plots}"


def _curves(metrics: Mapping[str, Sequence[Row]]) -> str:
    parts = []
    for stage, rows in metrics.items():
        charts = _charts(rows)
        if charts:
            parts.append(f'<h3>{escape(stage)}</h3><div class="grid">{charts}</div>')
    return f"<h2>Learning curves</h2>{''.join(parts)}" if parts else ""


def _charts(rows: Sequence[Row]) -> str:
    charts = []
    for name in _curve_names(rows):
        points = [(row["step"], row["metrics"].get(name)) for row in rows]
        present = [(step, value) for step, value in points if value is not None]
        if present:
            charts.append(line_chart(name, present))
    both = [(row["metrics"].get("kl/reference"), row["metrics"].get("reward/mean")) for row in rows]
    frontier = [(kl, reward) for kl, reward in both if kl is not None and reward is not None]
    if frontier:
        charts.append(line_chart("reward/mean against kl/reference", frontier, over="KL"))
    return "".join(charts)


def _curve_names(rows: Sequence[Row]) -> list[str]:
    """The metrics to draw, in the order of `CURVES`."""
    names = set[str]().union(*(row["metrics"] for row in rows)) - {"reward/std"}
    curves: list[str] = []
    for start in CURVES:
        curves.extend(sorted(name for name in names if name.startswith(start)))
    return curves


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
        if means:
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


def _answers(folders: Mapping[str, Path]) -> str:
    """The answers of all models of an evaluate stage to the same prompts, spread over the set."""
    body = ""
    for stage, folder in folders.items():
        path = folder / "records.jsonl"
        first_row = next(iter(_rows_of(path)), None)
        if first_row is None or not {"model", "answer"} <= first_row.keys():
            continue
        prompts: dict[str, list[Row]] = {}
        for row in _rows_of(path):
            prompts.setdefault(row["prompt_id"], []).append(row)
        spread = list(prompts.values())[:: max(1, len(prompts) // PROMPTS)]
        blocks = [_side_by_side(rows, "model", "value") for rows in spread[:PROMPTS]]
        body += f"<h2>Answers side by side: {escape(stage)}</h2>{''.join(blocks)}"
    return body


def _samples(folders: Mapping[str, Path]) -> str:
    """Prompts that occurred more than once in training: the first answer beside the last."""
    body = ""
    for stage, folder in folders.items():
        prompts: dict[str, list[Row]] = {}
        for row in _rows_of(folder / "samples.jsonl"):
            prompts.setdefault(row["prompt"], []).append({**row, "when": f"iteration {row['iteration']}"})
        ends = [(rows[0], rows[-1]) for rows in prompts.values()]
        pairs = [(first, last) for first, last in ends if first["iteration"] < last["iteration"]]
        pairs.sort(key=lambda pair: pair[0]["iteration"] - pair[1]["iteration"])
        blocks = "".join(_side_by_side(pair, "when", "score") for pair in pairs[:PROMPTS])
        body += f"<h2>Samples in training: {escape(stage)}</h2>{blocks}" if blocks else ""
    return body


def _side_by_side(rows: Sequence[Row], label: str, value: str) -> str:
    cells = ""
    for row in rows:
        heading = f"{escape(row[label])} · {number(row[value])}"
        cells += f'<div class="answer"><span class="soft">{heading}</span>{escape(row["answer"])}</div>'
    return f'<div class="prompt">{escape(rows[0]["prompt"])}</div><div class="grid texts">{cells}</div>'


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
