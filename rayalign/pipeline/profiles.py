"""An evaluation under profiles of preferences: who answers which prompts, and the figures of each profile.

prompts x profiles -> models                the same model under all profiles, with the wording or without it
                   -> by_profile            another model for each profile, such as a merge
                   -> values by prompt      figures of all profiles, clustered by prompt; figures of each profile
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from rayalign.config import EvaluateStage, Registry, nearest
from rayalign.data.preferences import HELPFULNESS, PROFILE, base_id, without_preferences
from rayalign.errors import InputError
from rayalign.evaluation.baselines import asked_attributes, gold_attributes
from rayalign.pipeline.kind import Problem
from rayalign.statistics.intervals import mean_interval, rate_interval
from rayalign.storage.report_profiles import AVERAGE, at_profile
from rayalign.types import Candidate, Example, Prompt

Values = Mapping[str, Mapping[str, float]]
"""name -> prompt id -> value"""
ASKED = {"level": "asked_level", "brief": "asked_length", "tone": "asked_tone"}
"""attribute of the embedded world -> metric of the answers that meet what the profile asks of it"""


@dataclass(frozen=True, slots=True)
class Writer:
    """A model that answers some of the prompts under a name of the table."""

    name: str
    model: str
    profile: str | None = None
    """the only one under which it answers"""
    prompted: bool = True
    """its prompts name their preferences"""

    def examples(self, fitting: Sequence[Example]) -> list[Example]:
        """Its prompts, as it reads them."""
        own = [example for example in fitting if self.profile in (None, example.prompt.meta.get(PROFILE))]
        if self.prompted:
            return own
        return [replace(example, prompt=without_preferences(example.prompt)) for example in own]


def writers(stage: EvaluateStage) -> Iterator[Writer]:
    """Every model of the stage, with what it answers."""
    plain = set(stage.unprompted or ())
    for name, model in stage.models.items():
        yield Writer(name, model, prompted=name not in plain)
    for name, models in (stage.by_profile or {}).items():
        for profile, model in models.items():
            yield Writer(name, model, canonical(stage, profile), name not in plain)


def canonical(stage: EvaluateStage, profile: str) -> str:
    """The one name of a profile of the stage's prompts.

    Raises:
        InputError: it is no profile.
    """
    assert stage.data.preferences is not None, "only a stage with preferences has profiles"
    return str(stage.data.preferences.registry().profile(profile))


def problems(stage: EvaluateStage) -> Iterator[Problem]:
    """What is wrong with the profiles of an evaluation."""
    use = stage.data.preferences
    if use is None:
        for key in ("by_profile", "unprompted", "by_criterion"):
            if getattr(stage, key) is not None:
                yield key, "it is for prompts under profiles of preferences; set data.preferences"
        return
    try:
        profiles = [str(profile) for profile in use.read_profiles()]
    except InputError as error:
        yield "data.preferences", str(error)
        return
    yield from _judge_problems(stage, use.registry())
    for name in stage.unprompted or ():
        if name not in stage.names:
            yield "unprompted", f"there is no model {name!r}; {nearest(name, stage.names)}"
    for name, models in (stage.by_profile or {}).items():
        if name in stage.models:
            yield f"by_profile.{name}", "models has that name too; take another one"
        yield from _coverage(stage, f"by_profile.{name}", models, profiles)


def _judge_problems(stage: EvaluateStage, registry: Registry) -> Iterator[Problem]:
    """Those who compare by single criteria are annotators of the stage, and helpfulness is no preference."""
    if stage.by_criterion and HELPFULNESS in registry:
        yield "by_criterion", f"a preference is named {HELPFULNESS}, as the criterion without preferences; rename it"
    for judge in stage.by_criterion or ():
        if judge not in stage.judges:
            yield "by_criterion", f"{judge!r} is none of the stage's annotators; {nearest(judge, stage.judges)}"


def _coverage(stage: EvaluateStage, key: str, models: Mapping[str, str], profiles: Sequence[str]) -> Iterator[Problem]:
    """There is exactly one model for each profile."""
    names: list[str] = []
    for profile in models:
        try:
            name = canonical(stage, profile)
        except InputError as error:
            yield key, str(error)
            continue
        if name not in profiles:
            yield key, f"{profile} is none of the profiles of data.preferences; {nearest(name, profiles)}"
        elif name in names:
            yield key, f"the profile {name} comes twice; leave one out"
        names.append(name)
    missing = [profile for profile in profiles if profile not in names]
    if missing:
        yield key, f"no model for {', '.join(missing)}; add one"


def clusters(prompts: Mapping[str, Prompt]) -> dict[str, str] | None:
    """Prompt id -> id of the prompt that its profiles share; None where there are no profiles."""
    if not any(PROFILE in prompt.meta for prompt in prompts.values()):
        return None
    return {prompt_id: base_id(prompt) for prompt_id, prompt in prompts.items()}


def places(prompts: Sequence[Prompt]) -> dict[str, list[int]]:
    """Profile -> the places of its prompts; none without profiles."""
    own_places: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        if PROFILE in prompt.meta:
            own_places.setdefault(prompt.meta[PROFILE], []).append(place)
    return own_places


def by_profile(prompts: Mapping[str, Prompt], values: Values) -> dict[str, dict[str, dict[str, float]]]:
    """The values of each profile apart: profile -> name -> prompt id -> value."""
    parts: dict[str, dict[str, dict[str, float]]] = {}
    for name, own in values.items():
        for prompt_id, value in own.items():
            profile = prompts[prompt_id].meta[PROFILE]
            parts.setdefault(profile, {}).setdefault(name, {})[prompt_id] = value
    return parts


Table = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def compared(
    stage: EvaluateStage,
    prompts: Mapping[str, Prompt],
    answers: Mapping[str, Mapping[str, Candidate]],
    values: Values,
    compare: Callable[..., Table],
    *,
    seed: int,
) -> Table:
    """The figures of all prompts, and with preferences also those of each profile.

    Args:
        compare: the results and the comparisons of some values, with `clusters` of their prompts.
    """
    cluster_of = clusters(prompts)
    results, comparisons = compare(values, clusters=cluster_of)
    if cluster_of is None:
        return results, comparisons
    further_results, further_comparisons = profile_figures(stage, prompts, values, compare, seed=seed)
    attributes = asked_figures(prompts, answers, seed=seed)
    return [*results, *attributes, *further_results], [*comparisons, *further_comparisons]


def profile_figures(
    stage: EvaluateStage,
    prompts: Mapping[str, Prompt],
    values: Values,
    compare: Callable[..., Table],
    *,
    seed: int,
) -> Table:
    """The figures of each profile apart, and each model's win rate over all others.

    Args:
        compare: the results and the comparisons of some values.
    """
    results: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    own = {name: values[name] for name in stage.names if name in values}
    results += _mean_win_rates(own, AVERAGE, clusters(prompts), seed)
    for profile, part in by_profile(prompts, values).items():
        own_results, own_comparisons = compare(part)
        comparisons += [{**row, "metric": at_profile(row["metric"], profile)} for row in own_comparisons]
        means = [row for row in own_results if row["metric"] == stage.metric and row["name"] in stage.names]
        results += [{**row, "metric": at_profile(row["metric"], profile)} for row in means]
        models = {name: part[name] for name in stage.names if name in part}
        results += _mean_win_rates(models, at_profile(AVERAGE, profile), None, seed)
    return results, comparisons


def _mean_win_rates(
    values: Values, metric: str, cluster_of: Mapping[str, str] | None, seed: int
) -> Iterator[dict[str, Any]]:
    """The share of other models' answers to the same prompts that each model beats [%]; a draw is half a win."""
    for name, own in values.items():
        rivals = [rival for rival in values if rival != name]
        rates: dict[str, float] = {}
        for prompt_id, value in own.items():
            theirs = [values[rival][prompt_id] for rival in rivals if prompt_id in values[rival]]
            if theirs:
                rates[prompt_id] = fmean(50.0 * (1 + (value > rival) - (value < rival)) for rival in theirs)
        if rates:
            groups = [cluster_of[prompt_id] for prompt_id in rates] if cluster_of else None
            interval = rate_interval(list(rates.values()), groups, most=100.0, seed=seed)
            yield {"name": name, "metric": metric, **interval._asdict()}


def asked_figures(
    prompts: Mapping[str, Prompt], answers: Mapping[str, Mapping[str, Candidate]], *, seed: int
) -> list[dict[str, Any]]:
    """For each dimension of the embedded world, how well the answers meet what their profiles ask."""
    results: list[dict[str, Any]] = []
    for name, candidates in answers.items():
        shares: dict[str, list[float]] = {attribute: [] for attribute in ASKED}
        groups: dict[str, list[str]] = {attribute: [] for attribute in ASKED}
        for prompt_id, candidate in candidates.items():
            prompt = prompts[prompt_id]
            requested = asked_attributes(prompt)
            met = gold_attributes(prompt, candidate.text) if requested else {}
            for attribute in requested & shares.keys():
                shares[attribute].append(met[attribute])
                groups[attribute].append(base_id(prompt))
        for attribute, metric in ASKED.items():
            if shares[attribute]:
                interval = mean_interval(shares[attribute], groups[attribute], seed=seed)
                results.append({"name": name, "metric": metric, **interval._asdict()})
    return results


def all_models(stage: EvaluateStage) -> list[tuple[str, str]]:
    """Key and model of everything that answers."""
    models = [(f"models.{name}", model) for name, model in stage.models.items()]
    for name, own in (stage.by_profile or {}).items():
        models += [(f"by_profile.{name}.{profile}", model) for profile, model in own.items()]
    return models
