"""The training settings of a study that differ from the defaults, read from its job file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayalign.algorithms.base import load
from rayalign.config import LearnerConfig, TrainStage, load_job

ROOT = Path(__file__).parents[1]
HEADING = ("stage", "algorithm", "its settings", "learner", "length")
ALWAYS_SHOWN = ("learning_rate", "minibatch")
"""settings of a learner that have no good default"""
WITHOUT_INFLUENCE = ("micro_tokens",)
"""settings of a learner that change no result"""


def settings_rows(job: str) -> list[list[str]]:
    """The training stages under `HEADING`; those of the same settings share a row.

    Args:
        job: the path of its file in the repository.
    """
    names_by_settings: dict[tuple[str, ...], list[str]] = {}
    for name, stage in load_job(ROOT / job).job.stages.items():
        if isinstance(stage, TrainStage):
            algorithm = stage.algorithm["name"]
            settings = algorithm, _algorithm(stage.algorithm), _learner(stage.learner), _length(stage)
            names_by_settings.setdefault(settings, []).append(f"`{name}`")
    return [[", ".join(names), *settings] for settings, names in names_by_settings.items()]


def _algorithm(section: Mapping[str, Any]) -> str:
    """What a stage sets otherwise than the algorithm's own file."""
    set_here = load(section).config.model_dump()
    defaults = load({"name": section["name"]}).config.model_dump()
    return _listed({key: value for key, value in set_here.items() if value != defaults[key]})


def _learner(learner: LearnerConfig) -> str:
    set_here = learner.model_dump(exclude=set(WITHOUT_INFLUENCE))
    defaults = LearnerConfig().model_dump()
    shown = {}
    for key, value in set_here.items():
        if key in ALWAYS_SHOWN or value != defaults[key]:
            shown[key] = value
    return _listed(shown)


def _length(stage: TrainStage) -> str:
    if stage.candidates:
        return f"{stage.iterations} iterations of {stage.prompts} prompts"
    if stage.steps is not None:
        return f"{stage.steps} steps"
    return "1 epoch" if stage.epochs == 1 else f"{stage.epochs} epochs"


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_text(value)}" for key, value in settings.items())


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
