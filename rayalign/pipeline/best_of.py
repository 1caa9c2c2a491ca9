"""What a stage answers for its sections `best_of`, before it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rayalign.cluster.turns import AFTER_ROLLOUT
from rayalign.config import ANNOTATOR, BestOf, DrawingSection, RewardSource, RoleConfig
from rayalign.errors import InputError
from rayalign.pipeline.kind import PAIRWISE_MODEL, REWARD_MODEL, Problem, Read
from rayalign.pipeline.needs import AnnotatorRead, RoleNeed
from rayalign.scoring.code import import_code


def reads(best_of: BestOf, key: str) -> Iterator[Read]:
    """The reward models of a section under `key`."""
    for index, source in enumerate(best_of.rewards):
        if source.form == "model":
            yield Read(f"{key}.{best_of.reward_key(index)}", source.source, (REWARD_MODEL, PAIRWISE_MODEL))


def annotators(best_of: BestOf, key: str) -> Iterator[AnnotatorRead]:
    """The annotators of a section under `key`; one that only compares does, since there are several candidates."""
    for index, source in enumerate(best_of.rewards):
        if source.form == "annotator" and source.source.startswith(ANNOTATOR):
            name = source.source.removeprefix(ANNOTATOR)
            yield AnnotatorRead(f"{key}.{best_of.reward_key(index)}", name)


def problems(best_of: BestOf, key: str) -> Iterator[Problem]:
    """Code of a section under `key` that cannot be imported."""
    for index, source in enumerate(best_of.rewards):
        if source.form == "code":
            try:
                import_code(source.source)
            except InputError as error:
                yield f"{key}.{best_of.reward_key(index)}", str(error)


def actor_sources(best_of: BestOf) -> Sequence[RewardSource]:
    """The sources that `reward` actors ask: all of a section with a reward model, none of another."""
    has_model = any(source.form == "model" for source in best_of.rewards)
    return best_of.rewards if has_model else ()


def reward_role(stage: DrawingSection, sources: Sequence[RewardSource]) -> Iterator[RoleNeed]:
    """The actors that ask these sources for scores of the answers, once all are written."""
    models = [source.source for source in sources if source.form == "model"]
    if models:
        first, *further = dict.fromkeys(models)
        yield RoleNeed(
            "reward",
            first,
            stage.roles.get("reward", RoleConfig()),
            stage.reader,
            further_models=tuple(further),
            presence=AFTER_ROLLOUT,
            only_models=len(models) == len(sources),
        )
