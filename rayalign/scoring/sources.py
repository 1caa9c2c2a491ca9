"""From a source of a job's reward to its scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rayalign.config import UNSPREADABLE, LearnerConfig, RewardSource
from rayalign.errors import InputError
from rayalign.scoring.base import Scorer
from rayalign.scoring.parts import PartsScorer
from rayalign.scoring.preference import PreferenceScorer

if TYPE_CHECKING:
    from rayalign.models.load import Frozen
    from rayalign.models.spread import SharedModel
    from rayalign.scoring.pairwise import PairwiseScorer
    from rayalign.scoring.reward_model import RewardModelScorer


def make_scorer(
    sources: Sequence[RewardSource],
    *,
    named: bool,
    config: LearnerConfig,
    policy: str,
    timeout: float,
    spread: bool = False,
) -> Scorer:
    """The scorer of all sources.

    Args:
        sources: models as folders or hub names, annotators as URLs.
        named: the scores have named parts; else there is one source.
        config: of reward models.
        policy: the model whose tokens are scored.
        timeout: seconds until an annotator must have scored all groups of a call.
        spread: this process is one of several ranks that hold each model in parts and are given the same groups.

    Raises:
        InputError: a source that is no model would be asked by every rank.
    """
    if spread and any(source.form != "model" for source in sources):
        raise InputError(f"roles.reward.spread: {UNSPREADABLE}")
    models: dict[str, RewardModelScorer | PairwiseScorer] = {}
    scorers: dict[str, Scorer] = {}
    for source in sources:
        scorers[source.label] = _make(source, config, policy, timeout, models, spread)
    if not named:
        return next(iter(scorers.values()))
    for_all = [source.label for source in sources if source.for_all]
    return PartsScorer(scorers, for_all)


def frozen_models(scorer: Scorer) -> list[Frozen | SharedModel]:
    """The models that a scorer has loaded."""
    from rayalign.scoring.pairwise import PairwiseScorer
    from rayalign.scoring.reward_model import RewardModelScorer

    if isinstance(scorer, RewardModelScorer | PairwiseScorer):
        return [scorer.model]
    if isinstance(scorer, PreferenceScorer):
        return frozen_models(scorer.scorer)
    models: list[Frozen | SharedModel] = []
    if isinstance(scorer, PartsScorer):
        for part in scorer.scorers.values():
            models += [model for model in frozen_models(part) if model not in models]
    return models


def _make(
    source: RewardSource,
    config: LearnerConfig,
    policy: str,
    timeout: float,
    models: dict[str, RewardModelScorer | PairwiseScorer],
    spread: bool,
) -> Scorer:
    """One source's scorer; `models` holds the reward models so far, which parts of the same model share."""
    # each import is late: a reward of rules alone needs no model libraries
    if source.form == "rules":
        from rayalign.scoring.rules import RuleScorer

        return RuleScorer(source.rule)
    if source.form == "code":
        from rayalign.scoring.code import CodeScorer

        return CodeScorer(source.source, source.settings)
    if source.form == "annotator":
        from rayalign.scoring.annotator import AnnotatorScorer

        return AnnotatorScorer(source.source, timeout)
    from rayalign.models.configuration import reads_pairs
    from rayalign.scoring.pairwise import PairwiseScorer
    from rayalign.scoring.reward_model import RewardModelScorer

    if source.source not in models:
        kind = PairwiseScorer if reads_pairs(source.source) else RewardModelScorer
        models[source.source] = kind(source.source, config, policy, spread=spread)
    model = models[source.source]
    return PreferenceScorer(model, source.preference) if source.preference else model
