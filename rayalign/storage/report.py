"""A run as one page: report.html needs nothing but itself, and says what there is of a run that is not finished."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import yaml

from rayalign.storage.metrics import read_metrics
from rayalign.storage.records import atomic_write, read_jsonl
from rayalign.storage.report_plots import PALETTE, forest, line_chart, number, stacked_bar
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
    """Write the report of a run folder, finished or not; where it is."""
    job = yaml.safe_load(_text(run / "job.yaml")) or {}
    name = str(job.get("name", run.name))
    summary = json.loads(_text(run / "summary.json") or "{}")
    events = list(read_jsonl(run / "events.jsonl", growing=True)) if (run / "events.jsonl").exists() else []
    rows = _stages(run, job, events)
    folders = {str(row["name"]): run / "stages" / str(row["name"]) for row in rows}
    metrics = {name: read_metrics(f / "metrics.jsonl") for name, f in folders.items() if (f / "metrics.jsonl").exists()}
    sections = [
        _header(name, job, rows, summary, events),
        _results(summary),
        _curves(metrics),
        _phases(metrics),
        _stage_table(rows),
        _answers(folders),
        _samples(folders),
        _job_text(run),
    ]
    head = f"<head>{_META}<title>{escape(name)}</title><style>{_text(STYLE)}</style></head>"
    body = "\n".join(s for s in sections if s)
    atomic_write(run / "report.html", [f'<!doctype html>\n<html lang="en">{head}\n<body>\n{body}\n</body></html>\n'])
    return run / "report.html"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _stages(run: Path, job: Mapping[str, Any], events: Sequence[Row]) -> list[Row]:
    """Rows {name, kind, status, seconds, fixed} in the job's order; the times of finished stages only."""
    started = {event["stage"] for event in events if event["event"] == "stage_started"}
    rows = []
    for name, stage in job.get("stages", {}).items():
        done = read_done(run / "stages" / name)
        status = "finished" if done else "not finished" if name in started else "not started"
        times = {"seconds": done.get("seconds"), "fixed": done.get("fixed_seconds")} if done else {}
        rows.append({"name": name, "kind": stage["kind"], "status": status, "seconds": None, "fixed": None, **times})
    return rows


def _header(
    name: str, job: Mapping[str, Any], rows: Sequence[Row], summary: Mapping[str, Any], events: Sequence[Row]
) -> str:
    done = sum(row["status"] == "finished" for row in rows)
    facts = ["finished" if rows and done == len(rows) else f"not finished: {done} of {len(rows)} stages"]
    facts.append(f"seed {job.get('seed', '–')}")
    if events:
        facts.append(f"started {datetime.fromtimestamp(events[0]['time']):%Y-%m-%d %H:%M}")
    facts.append(f"reported {datetime.now():%Y-%m-%d %H:%M}")
    if summary.get("peak_memory_bytes"):
        facts.append(f"peak memory {summary['peak_memory_bytes'] / 2**30:.1f} GiB")
    return f'<h1>{escape(name)}</h1><p class="soft">{escape(" · ".join(facts))}</p>'


def _results(summary: Mapping[str, Any]) -> str:
    results, comparisons = summary.get("results", []), summary.get("comparisons", [])
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
    for metric, n in dict.fromkeys((c["metric"], c["n"]) for c in comparisons):
        mine = [c for c in comparisons if (c["metric"], c["n"]) == (metric, n)]
        rows = [{**c, "label": f"{c['a']} − {c['b']}", "mean": c["mean_difference"]} for c in mine]
        plots += f"<h3>Differences in {escape(metric)} on the same {number(n)} prompts, with 95 % intervals</h3>"
        plots += forest(rows)
    return f"<h2>Comparison</h2>{_table(columns, results)}{plots}"


def _curves(metrics: Mapping[str, Sequence[Row]]) -> str:
    charts = {stage: _charts(rows) for stage, rows in metrics.items()}
    parts = [f'<h3>{escape(s)}</h3><div class="grid">{c}</div>' for s, c in charts.items() if c]
    return f"<h2>Learning curves</h2>{''.join(parts)}" if parts else ""


def _charts(rows: Sequence[Row]) -> str:
    names = sorted({name for row in rows for name in row["metrics"]})
    chosen = [n for start in CURVES for n in names if n.startswith(start) and n != "reward/std"]
    series = {n: [(r["step"], v) for r in rows if (v := r["metrics"].get(n)) is not None] for n in chosen}
    charts = [line_chart(name, points) for name, points in series.items() if points]
    both = [(r["metrics"].get("kl/reference"), r["metrics"].get("reward/mean")) for r in rows]
    if frontier := [(kl, reward) for kl, reward in both if kl is not None and reward is not None]:
        charts.append(line_chart("reward/mean against kl/reference", frontier, over="KL"))
    return "".join(charts)


def _phases(metrics: Mapping[str, Sequence[Row]]) -> str:
    means = {stage: m for stage, rows in metrics.items() if (m := _phase_means(rows))}
    if not means:
        return ""
    longest = Counter[str]()
    for mean in means.values():
        longest.update(mean)
    order = [phase for phase, _ in longest.most_common() if phase != "unattributed"]
    colours = dict(zip(order, cycle(PALETTE), strict=False)) | {"unattributed": "var(--line)"}
    bars = (stacked_bar(stage, {p: m[p] for p in colours if p in m}, colours) for stage, m in means.items())
    return f'<h2>Where a step’s time goes</h2><p class="soft">Mean of each phase per step.</p>{"".join(bars)}'


def _phase_means(rows: Sequence[Row]) -> dict[str, float]:
    """Seconds of each phase per step."""
    sums = Counter[str]()
    for row in rows:
        found = {n.removeprefix("phase/"): v for n, v in row["metrics"].items() if n.startswith("phase/") and v}
        sums.update(found)
    return {name: value / len(rows) for name, value in sums.items() if name != "total"}


def _stage_table(rows: Sequence[Row]) -> str:
    def computing(row: Row) -> str:
        known = row["seconds"] is not None and row["fixed"] is not None
        return number(row["seconds"] - row["fixed"]) if known else "–"

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
        if not path.exists() or not all(
            {"model", "answer"} <= r.keys() for r in islice(read_jsonl(path, growing=True), 1)
        ):
            continue
        prompts: dict[str, list[Row]] = {}
        for row in read_jsonl(path, growing=True):
            prompts.setdefault(row["prompt_id"], []).append(row)
        ids = list(prompts)
        blocks = [_side_by_side(prompts[i], "model", "value") for i in ids[:: max(1, len(ids) // PROMPTS)][:PROMPTS]]
        body += f"<h2>Answers side by side: {escape(stage)}</h2>{''.join(blocks)}" if blocks else ""
    return body


def _samples(folders: Mapping[str, Path]) -> str:
    """Prompts that came more than once in training: the first answer beside the last."""
    body = ""
    for stage, folder in folders.items():
        path = folder / "samples.jsonl"
        prompts: dict[str, list[Row]] = {}
        for row in read_jsonl(path, growing=True) if path.exists() else ():
            prompts.setdefault(row["prompt"], []).append({**row, "when": f"iteration {row['iteration']}"})
        pairs = [(p[0], p[-1]) for p in prompts.values() if p[0]["iteration"] < p[-1]["iteration"]]
        pairs.sort(key=lambda p: p[0]["iteration"] - p[1]["iteration"])
        blocks = "".join(_side_by_side(pair, "when", "score") for pair in pairs[:PROMPTS])
        body += f"<h2>Samples in training: {escape(stage)}</h2>{blocks}" if blocks else ""
    return body


def _side_by_side(rows: Sequence[Row], label: str, value: str) -> str:
    cells = "".join(
        f'<div class="answer"><span class="soft">{escape(r[label])} · {number(r[value])}</span>'
        f"{escape(r['answer'])}</div>"
        for r in rows
    )
    return f'<div class="prompt">{escape(rows[0]["prompt"])}</div><div class="grid texts">{cells}</div>'


def _job_text(run: Path) -> str:
    text = _text(run / "job.yaml")
    return f"<h2>Job</h2><details><summary>job.yaml</summary><pre>{escape(text)}</pre></details>" if text else ""


def _table(columns: Mapping[str, Callable[[Row], str]], rows: Iterable[Row]) -> str:
    """A table; columns of figures are right-aligned."""
    words = {"model", "metric", "stage", "kind", "status"}
    classes = {name: "" if name in words else ' class="n"' for name in columns}
    head = "".join(f"<th{classes[c]}>{escape(c)}</th>" for c in columns)
    body = "".join(
        f"<tr>{''.join(f'<td{classes[c]}>{escape(str(f(row)))}</td>' for c, f in columns.items())}</tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
