"""How the models of an evaluation compare: means, paired differences, and win rates by the metric and by annotators.

A win rate carries the name of who judged: `win_rate_by_gold_against_sft`, `win_rate_by_reward_against_sft`,
`win_rate_by_NAME_against_sft` for an annotator NAME, `win_rate_by_NAME_on_P1A_against_sft` for one by the preference
P1A alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import combinations
from typing import Any

from rayalign.annotator.judges.utility import Judge
from rayalign.annotator.judges.verdicts import pair_of
from rayalign.config import EvaluateStage
from rayalign.data.preferences import base_id, by_criterion
from rayalign.errors import InputError
from rayalign.pipeline import profiles
from rayalign.pipeline.context import RunContext
from rayalign.statistics.intervals import mean_interval, paired_difference, rate_interval
from rayalign.statistics.ranks import rank_correlation
from rayalign.statistics.winrate import win_rate
from rayalign.storage.report_judges import RANKS, win_rate_metric
from rayalign.storage.report_profiles import CRITERION, at_profile, criterion_metric
from rayalign.types import Candidate, Prompt

logger = logging.getLogger(__name__)
Row = dict[str, Any]
JUDGE_OF = {"gold_utility": "gold", "reward": "reward"}
"""metric -> who judges where its values are compared"""


def compare(
    stage: EvaluateStage, values: profiles.Values, *, seed: int, clusters: Mapping[str, str] | None = None
) -> profiles.Table:
    """The mean of each row; paired differences and win rates of each model against the ones to beat.

    An annotator that has the name of the metric's judge gives the win rates itself. A model without values has no row.

    Args:
        clusters: prompt id -> what is resampled as a whole; None: each prompt by itself.

    Raises:
        InputError: no model has a value.
    """
    if not any(values.values()):
        raise InputError(f"no answer of any model has a value of {stage.metric}; see the warnings of its scorer above")

    def groups(prompt_ids: Iterable[str]) -> list[str] | None:
        return [clusters[prompt_id] for prompt_id in prompt_ids] if clusters else None

    judge = JUDGE_OF[stage.metric]
    prompts = len(set[str]().union(*values.values()))
    results: list[Row] = []
    for name, own in values.items():
        if not own:
            logger.warning("%s: no answer has a value of %s, so it has no row", name, stage.metric)
            continue
        mean = mean_interval(list(own.values()), groups(own), seed=seed)
        note = missing_note(prompts - len(own), prompts, "have no value")
        results.append({"name": name, "metric": stage.metric, **mean._asdict(), **note})
    comparisons: list[Row] = []
    for name, rival, common in _meetings(stage, values):
        ours, theirs = [values[name][p] for p in common], [values[rival][p] for p in common]
        gap = paired_difference(ours, theirs, groups(common), seed=seed)
        interval = {"mean_difference": gap.mean, "low": gap.low, "high": gap.high, "n": gap.n}
        note = missing_note(prompts - len(common), prompts, "have no value of both")
        comparisons.append({"a": name, "b": rival, "metric": stage.metric, **interval, **note})
        if judge not in stage.judges:
            preferences = [_preference(a, b) for a, b in zip(ours, theirs, strict=True)]
            wins = _wins(name, win_rate_metric(judge, rival), preferences, seed, groups(common))
            results += [row | note for row in wins]
    return results, comparisons


def missing_note(missing: int, total: int, what: str) -> dict[str, str]:
    """The field of a row that says why its n is less than it could be."""
    return {"note": f"{missing} of {total} prompts {what}"} if missing > 0 else {}


def _preference(ours: float, theirs: float) -> float:
    """2 where ours is better, 1 where theirs is, 1.5 between equals."""
    if ours == theirs:
        return 1.5
    return 2.0 if ours > theirs else 1.0


def _meetings(stage: EvaluateStage, table: Mapping[str, Mapping[str, object]]) -> Iterator[tuple[str, str, list[str]]]:
    """Each model, one that it is compared with, and the prompts that both have in the table."""
    for rival in rivals(stage):
        for name in stage.names:
            common = [p for p in table.get(name, {}) if p in table.get(rival, {})]
            if name != rival and common:
                yield name, rival, common


def rivals(stage: EvaluateStage) -> tuple[str, ...]:
    """The models that every other one is compared with."""
    return stage.against or (next(iter(stage.models)),)


def _wins(
    name: str, metric: str, preferences: Sequence[float | None], seed: int, clusters: Sequence[str] | None = None
) -> list[Row]:
    """Win rate in percent, in AlpacaEval's convention: a draw is half a win, an absent verdict is left out.

    No row without any verdict.
    """
    absent = sum(preference is None for preference in preferences)
    if absent == len(preferences):
        logger.warning("%s: %s has no verdict", name, metric)
        return []
    rates = [None if p is None else 100 * (p - 1) for p in preferences]
    spread = rate_interval(rates, clusters, most=100.0, seed=seed)
    note = missing_note(absent, len(preferences), "have no verdict")
    mean = win_rate(preferences).win_rate
    return [{"name": name, "metric": metric, **spread._asdict(), "mean": mean, **note}]


def annotated(
    context: RunContext,
    stage: EvaluateStage,
    prompts: Mapping[str, Prompt],
    answers: Mapping[str, Mapping[str, Candidate]],
) -> list[Row]:
    """Win rates as the annotators of the service see them."""
    rows: list[Row] = []
    seed = context.job.seed
    criteria = _criteria(stage, prompts)
    for judge in stage.judges:
        own_criteria = criteria if judge in (stage.by_criterion or ()) else {}
        with closing(context.annotator(judge)) as service:
            for name, rival, common in _meetings(stage, answers):
                ours, theirs = answers[name], answers[rival]
                pairs = [pair_of(prompts[p], theirs[p], ours[p]) for p in common]
                preferences = service.compare(pairs, seed=seed)
                metric = win_rate_metric(judge, rival)
                groups = [base_id(prompts[p]) for p in common] if profiles.clusters(prompts) else None
                rows += _wins(name, metric, preferences, seed, groups)
                for profile, places in profiles.places([prompts[p] for p in common]).items():
                    own = [preferences[place] for place in places]
                    rows += _wins(name, at_profile(metric, profile), own, seed)
                for criterion, alone in own_criteria.items():
                    judged = [(alone[p], theirs[p], ours[p]) for p in common if p in alone]
                    metric = criterion_metric(judge, criterion, rival)
                    wins = _criterion_wins(service, name, metric, judged, seed)
                    rows += [{**row, CRITERION: criterion} for row in wins]
    return rows


def _criterion_wins(
    service: Judge, name: str, metric: str, judged: Sequence[tuple[Prompt, Candidate, Candidate]], seed: int
) -> list[Row]:
    """The win rate on prompts under one criterion alone; no row where no prompt has it."""
    if not judged:
        return []
    preferences = service.compare([pair_of(*answers) for answers in judged], seed=seed)
    return _wins(name, metric, preferences, seed, [base_id(prompt) for prompt, *_ in judged])


def _criteria(stage: EvaluateStage, prompts: Mapping[str, Prompt]) -> dict[str, dict[str, Prompt]]:
    """As `by_criterion`; none where no annotator compares by single criteria."""
    if not stage.by_criterion:
        return {}
    assert stage.data.preferences is not None, "`check` refuses by_criterion without preferences"
    return by_criterion(prompts, stage.data.preferences)


def judge_correlations(judges: Sequence[str], against: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Spearman's correlation of each two judges' win rates over the models that both compared with a rival."""
    rates: dict[str, dict[str, float]] = {}
    for row in rows:
        rates.setdefault(row["metric"], {})[row["name"]] = row["mean"]
    correlations = []
    for first, second in combinations(judges, 2):
        for rival in against:
            ours = rates.get(win_rate_metric(first, rival), {})
            theirs = rates.get(win_rate_metric(second, rival), {})
            names = [name for name in ours if name in theirs]
            rho = rank_correlation([ours[name] for name in names], [theirs[name] for name in names])
            metric = f"rank_correlation_of_{first}_and_{second}_against_{rival}"
            row = {"name": RANKS, "metric": metric, "mean": rho, "low": None, "high": None, "n": len(names)}
            correlations.append(row)
    return [row for row in correlations if not math.isnan(row["mean"])]
