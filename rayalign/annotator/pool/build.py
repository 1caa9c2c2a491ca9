"""From the file of a pool to its annotators; the caller provides access to the judges' own models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rayalign.annotator.endpoints.language_model import LanguageModel
from rayalign.annotator.endpoints.openai_client import OpenAIModel
from rayalign.annotator.judges import alpaca_config
from rayalign.annotator.judges.criteria import BallotJudge, CriteriaJudge
from rayalign.annotator.judges.prompted import EXPLANATIONS, LLMJudge
from rayalign.annotator.judges.utility import RubricUtilities, Utilities, UtilityJudge
from rayalign.annotator.pool.annotator import PoolAnnotator
from rayalign.annotator.pool.pool import Pool
from rayalign.annotator.store.budget import Budget
from rayalign.annotator.store.database import Database
from rayalign.annotator.store.verdict_store import VerdictStore
from rayalign.config import (
    AlpacaEvalJudgeConfig,
    AnnotatorConfig,
    CriteriaJudgeConfig,
    HostedJudgeConfig,
    PromptedConfig,
    RewardJudgeConfig,
    RubricJudgeConfig,
    ServiceConfig,
)
from rayalign.errors import InputError


class Models(Protocol):
    """Where the judges' own models run."""

    def scoring(self, name: str, section: RewardJudgeConfig) -> Utilities:
        """The reward model of the annotator of that name."""

    def language_model(self, name: str, section: HostedJudgeConfig) -> LanguageModel:
        """The hosted language model of the annotator of that name."""


def build_pool(config: ServiceConfig, models: Models | None = None) -> Pool:
    """The annotators with their cache and budget; without a service there are no `models`.

    Raises:
        InputError: a judge that cannot be made: an unknown criterion, a missing key variable, a wrong template.
    """
    annotators = [_annotator(name, section, models) for name, section in config.annotators.items()]
    database = Database(config.cache)
    store, budget = VerdictStore(database), Budget(database, config.budget)
    return Pool(annotators, store, budget, chunk=config.chunk, timeout=config.request_timeout)


def _annotator(name: str, config: AnnotatorConfig, models: Models | None) -> PoolAnnotator:
    judge = config.judge
    if isinstance(judge, RubricJudgeConfig):
        return _scored(name, config, RubricUtilities(judge.criteria))
    if isinstance(judge, RewardJudgeConfig | HostedJudgeConfig) and models is None:
        raise InputError(f"annotators.{name} has a model of its own; start `rayalign serve FILE` and give its URL")
    if isinstance(judge, RewardJudgeConfig):
        assert models is not None
        return _scored(name, config, models.scoring(name, judge))
    if config.people:
        key = "human" if config.human else "humans"
        raise InputError(
            f"annotators.{name}.{key}: only judges that score single answers (rubric, reward_model) take it"
        )
    if isinstance(judge, HostedJudgeConfig):
        assert models is not None
        return _prompted(name, config, judge, models.language_model(name, judge))
    if isinstance(judge, CriteriaJudgeConfig):
        return _graded(name, config, CriteriaJudge(judge, OpenAIModel(judge)), judge.answers)
    if isinstance(judge, AlpacaEvalJudgeConfig):
        loaded = alpaca_config.load(judge)
        return _prompted(name, config, loaded.config, OpenAIModel(loaded.config), loaded.explanations)
    return _prompted(name, config, judge, OpenAIModel(judge))


def _scored(name: str, config: AnnotatorConfig, utilities: Utilities) -> PoolAnnotator:
    judge = UtilityJudge(utilities, config.people, name)
    scoring = None if config.people else judge
    seeded = len(config.people) > 1 or any(human.self_disagreement > 0 for human in config.people)
    return PoolAnnotator(name, config.judge.kind, judge, scoring, pooled=config.pooled, seeded=seeded)


def _graded(name: str, config: AnnotatorConfig, judge: CriteriaJudge, answers: int) -> PoolAnnotator:
    return PoolAnnotator(
        name,
        config.judge.kind,
        judge,
        ballots=BallotJudge(judge, answers),
        pooled=config.pooled,
        seeded=judge.seeded,
        estimate=judge.estimate,
        least=judge.least,
    )


def _prompted(
    name: str,
    config: AnnotatorConfig,
    section: PromptedConfig,
    model: LanguageModel,
    explanations: Sequence[str] = EXPLANATIONS,
) -> PoolAnnotator:
    judge = LLMJudge(section, model, explanations=explanations)
    return PoolAnnotator(
        name,
        config.judge.kind,
        judge,
        pooled=config.pooled,
        randomize_order=section.randomize_order,
        seeded=judge.seeded,
        estimate=judge.estimate,
        least=judge.least,
    )
