"""The card of an exported model: what it was made from, how, and what it measures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from rayalign.storage.summary import read_done

_LICENCE = (
    "A model trained on data, or started from another model, may fall under the terms of both. Nobody has checked them "
    "here: see the licences of the model and of each data set named below, and add one to this file before you publish."
)


def model_card(run: Path, stage: str, *, adapter: bool, version: str) -> str:
    """Markdown for the model that a stage of a run made.

    Args:
        adapter: the folder holds an adapter alone.
        version: of the package.
    """
    job = yaml.safe_load((run / "job.yaml").read_text(encoding="utf-8"))
    stages: Mapping[str, Any] = job["stages"]
    history = list(_history(stages, stage))
    kind = "a low-rank adapter in peft's form" if adapter else "a model in Hugging Face's format"
    lines = ["---", "library_name: peft" if adapter else "library_name: transformers", "tags: [rayalign]", "---"]
    lines += [
        f"# {job['name']}, {stage}",
        "",
        f"This is {kind}, made by rayalign {version}.",
        "",
        "## How it was made",
        "",
    ]
    lines += [f"- {_described(name, stages[name])}" for name in history]
    lines += ["", "## Data", ""]
    lines += [f"- {text}" for text in dict.fromkeys(_data(stages, history))] or ["- none of its own"]
    lines += ["", "## Licence", "", _LICENCE, "", "## Figures", ""]
    lines += _figures(run, stage) or ["No stage of the run measured it."]
    chosen = {name: stages[name] for name in history}
    lines += ["", "## Settings", "", "```yaml", yaml.safe_dump(chosen, sort_keys=False).strip(), "```", ""]
    return "\n".join(lines)


def _history(stages: Mapping[str, Any], stage: str) -> Iterator[str]:
    """The stages that a model came from, the earliest first."""
    references = [text for text in _texts(stages[stage]) if text.startswith("stage:")]
    names = [text.removeprefix("stage:").partition("/")[0] for text in references]
    before: dict[str, None] = {}
    for name in names:
        if name in stages:
            before |= dict.fromkeys(_history(stages, name))
    yield from [*before, stage]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(inner)


def _described(name: str, stage: Mapping[str, Any]) -> str:
    algorithm = stage.get("algorithm") or {}
    what = f"{stage['kind']} by {algorithm['name']}" if "name" in algorithm else stage["kind"]
    start = stage.get("model")
    return f"`{name}`: {what}" + (f", from `{start}`" if isinstance(start, str) else "")


def _data(stages: Mapping[str, Any], names: list[str]) -> Iterator[str]:
    for name in names:
        data = stages[name].get("data") or {}
        sources = data.get("blend") or [data]
        reads_data = not stages[name].get("examples")
        for source in sources if reads_data else ():
            path = source.get("path")
            yield f"`{path}` ({source.get('format')})" if path else f"{source.get('format')}, which needs no files"


def _figures(run: Path, stage: str) -> list[str]:
    """A table of what the run measured of the stage's model: its own figures, and those of evaluations that name it."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    job = yaml.safe_load((run / "job.yaml").read_text(encoding="utf-8"))
    names = {stage}
    for section in job["stages"].values():
        models = section.get("models") or {}
        if section["kind"] == "evaluate":
            names |= {name for name, model in models.items() if model == f"stage:{stage}"}
    own = (read_done(run / "stages" / stage) or {}).get("results", [])
    rows = [row for row in summary["results"] if row["name"] in names] or own
    if not rows:
        return []
    lines = ["| model | metric | mean | 95% interval | n |", "|---|---|---|---|---|"]
    for row in rows:
        interval = "" if row["low"] is None else f"{row['low']:.3g} to {row['high']:.3g}"
        lines.append(f"| {row['name']} | {row['metric']} | {row['mean']:.3g} | {interval} | {row['n']} |")
    return lines
