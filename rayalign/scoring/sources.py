"""From a source of a job's reward to its scorer."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """What a reward is made from."""

    sources: tuple[RewardSource, ...]
    """models as folders or hub names, annotators as URLs"""
    config: LearnerConfig
    """of reward models"""
    policy: str
    """the model whose tokens are scored"""
    timeout: float
    """seconds until an annotator must have scored all groups of a call, and until the ranks of models in parts must
    have met and each of their collectives have ended"""
    named: bool = False
    """the scores have named parts; else there is one source"""


def make_scorer(spec: RewardSpec, *, spread: bool = False) -> Scorer:
    """The scorer of all sources.

    Args:
        spread: this process is one of several ranks that hold each model in parts and are given the same groups.

    Raises:
        InputError: a source that is no model would be asked by every rank.
    """
    if spread and any(source.form != "model" for source in spec.sources):
        raise InputError(f"roles.reward.spread: {UNSPREADABLE}")
    models: dict[str, RewardModelScorer | PairwiseScorer] = {}
    scorers: dict[str, Scorer] = {}
    for source in spec.sources:
        scorers[source.label] = _make(source, spec, models, spread=spread)
    if not spec.named:
        return next(iter(scorers.values()))
    for_all = [source.label for source in spec.sources if source.for_all]
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
    source: RewardSource, spec: RewardSpec, models: dict[str, RewardModelScorer | PairwiseScorer], *, spread: bool
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

        return AnnotatorScorer(source.source, spec.timeout)
    from rayalign.models.configuration import reads_pairs
    from rayalign.scoring.pairwise import PairwiseScorer
    from rayalign.scoring.reward_model import RewardModelScorer

    if source.source not in models:
        kind = PairwiseScorer if reads_pairs(source.source) else RewardModelScorer
        models[source.source] = kind(source.source, spec.config, spec.policy, spread=spread)
    model = models[source.source]
    return PreferenceScorer(model, source.preference) if source.preference else model
