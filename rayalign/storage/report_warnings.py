"""What speaks against a run's figures; the report and the console show it before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayalign.statistics.doubts import answer_doubts, reward_doubts


def run_warnings(job: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences on reward models that may know nothing, and on answers that are cut, collapsed or repetitive.

    Args:
        job: the resolved job.
        results: rows of the run's summary.
    """
    warnings = []
    for name, sentences in reward_doubts(results).items():
        warnings.append(" ".join(sentences) + _consequence(job, name))
    for doubts in answer_doubts(results).values():
        warnings += [doubt.sentence for doubt in doubts]
    return warnings


def _consequence(job: Mapping[str, Any], name: str) -> str:
    """Which stages a reward model's faults reach."""
    dependent = [stage for stage, section in job.get("stages", {}).items() if _mentions(section, f"stage:{name}")]
    return f" The results of {', '.join(dependent)} depend on it and may be meaningless." if dependent else ""


def _mentions(section: Any, model: str) -> bool:
    """Whether any value of a stage, however deep, names a model."""
    if isinstance(section, Mapping):
        return any(_mentions(value, model) for value in section.values())
    if isinstance(section, list | tuple):
        return any(_mentions(value, model) for value in section)
    return bool(section == model)
