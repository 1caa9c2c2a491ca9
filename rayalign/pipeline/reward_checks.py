"""What can be wrong with the parts of a training's reward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any

from rayalign.algorithms.base import Algorithm
from rayalign.config import RewardSource, TrainStage, nearest
from rayalign.errors import InputError
from rayalign.pipeline.kind import Problem


def reward_problems(stage: TrainStage, algorithm: Algorithm[Any]) -> Iterator[Problem]:
    """Every problem of a stage's `reward`: each part's metric is its own, and code can be imported."""
    from rayalign.scoring.code import import_code

    for index, source in enumerate(stage.rewards):
        if stage.has_parts and f"reward/{source.label}" in algorithm.metrics:
            yield f"reward.{index}", f"reward/{source.label} is another metric; give this part another name"
        if source.form == "code":
            try:
                import_code(source.source)
            except InputError as error:
                yield stage.reward_key(index), str(error)
    yield from _preferences(stage)


def _preferences(stage: TrainStage) -> Iterator[Problem]:
    """The parts of the reward are the preferences of the prompts, where they name any."""
    use = stage.data.preferences
    parts = [source for source in stage.rewards if source.preference]
    if use is None:
        if parts:
            yield "reward", f"{parts[0].preference} is a preference, but data.preferences are not set; set them"
        return
    try:
        profiles = use.read_profiles()
    except InputError as error:
        yield "data.preferences", str(error)
        return
    objectives: set[str] = set()
    for profile in profiles:
        objectives.update(profile.ids)
    for source in parts:
        if source.preference not in objectives:
            near = nearest(str(source.preference), sorted(objectives))
            yield "reward", f"no profile of data.preferences holds {source.preference!r}; {near}"
        elif source.preference != source.label:
            yield "reward", f"the part for {source.preference} is named {source.label}; leave its name out"
    if stage.has_parts:
        yield from _counted_parts(stage.rewards, objectives)


def _counted_parts(sources: Sequence[RewardSource], objectives: Set[str]) -> Iterator[Problem]:
    """Each objective has its part, and each part counts for some prompt."""
    missing = sorted(objectives - {source.label for source in sources})
    if missing:
        yield "reward", f"the prompts name {missing[0]}, but the reward has no part of that name; add it"
    for index, source in enumerate(sources):
        if source.preference or source.for_all or source.label in objectives:
            continue
        yield (
            f"reward.{index}",
            f"no profile of data.preferences names {source.label}, so this part would never count; set for_all: true, "
            "or leave it out",
        )
