"""One row for each model that a job compares: its figures, what it learnt from, and what its training took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayalign.config import Job, Reference
from rayalign.pipeline.kind import kind_of
from rayalign.statistics.doubts import ANSWER_METRICS
from rayalign.storage.report_profiles import has_heat_map

Outcome = Mapping[str, Any]
"""the content of a stage's done.json"""
_OF_A_MODEL = ("_against_", "best_of_n_kl", *ANSWER_METRICS)
"""parts of the names of metrics that say something else than how good one model is"""


def method_rows(job: Job, outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """The rows of RRHF's table (Yuan 2023, tables 2 and 6), for any job.

    Each has `name`, the metrics of the model, `samples_mean`, `samples_deviation` and `samples_maximum` of the rewards
    that it learnt from, `models` in memory beside the engines, and the seconds of `drawing` and `training`; what is not
    known is absent. A name that stands for the same model in several stages has one row, in which the figures of a
    later stage that have the name of an earlier one's say their stage.

    Args:
        outcomes: of the stages that have finished, by name.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for stage_name, stage in job.stages.items():
        results = outcomes.get(stage_name, {}).get("results", [])
        for name, model in kind_of(stage).compares().items():
            row = rows.setdefault((name, model), {"name": name} | _training(job, model, outcomes))
            for metric, mean in _metrics(results, name).items():
                row[f"{stage_name}: {metric}" if metric in row else metric] = mean
    return list(rows.values())


def _metrics(results: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    own = [row for row in results if row["name"] == name and not has_heat_map(row)]
    return {row["metric"]: row["mean"] for row in own if not any(part in row["metric"] for part in _OF_A_MODEL)}


def _training(job: Job, model: str, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """What is known of how a model was trained; nothing of one from elsewhere."""
    reference = Reference.parse(model)
    if reference is None or reference.stage not in outcomes:
        return {}
    kind, outcome = kind_of(job.stages[reference.stage]), outcomes[reference.stage]
    row: dict[str, Any] = {"models": kind.models_in_memory(job), "training": outcome.get("seconds")}
    samples = outcome.get("sample_reward")
    source = Reference.parse(next((read.value for read in kind.reads() if read.key == "examples"), ""))
    if source is not None and source.stage in outcomes:
        drawn = outcomes[source.stage]
        row["drawing"] = drawn.get("seconds")
        samples = samples or drawn.get("sample_reward")
    return row | {f"samples_{name}": value for name, value in (samples or {}).items()}
