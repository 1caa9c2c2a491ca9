"""Scores of several sources: which parts count, what is absent, how they become one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from rayalign.config import LearnerConfig, RewardSource
from rayalign.errors import InputError
from rayalign.scoring.parts import PartsScorer, RewardCombiner, is_absent, merge_scores
from rayalign.scoring.sources import RewardSpec, make_scorer
from rayalign.types import Group, Message, Prompt, Score, ScorePart, Segment, Trajectory


class Constant:
    """One score for every candidate, and the groups that it saw."""

    def __init__(self, score: Score) -> None:
        self.groups: list[str] = []
        self._score = score

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        self.groups += [group.id for group in groups]
        return [(self._score,) * len(group.trajectories) for group in groups]


def group(name: str, *answers: str, **meta: str) -> Group:
    rows = [
        Trajectory(name, i, (1,), (Segment(0, "policy", 0),), (0.0,), "stop", text) for i, text in enumerate(answers)
    ]
    return Group(name, Prompt(name, (Message("user", "x"),), meta), 0, tuple(rows))


def test_each_source_scores_the_prompts_that_name_it() -> None:
    kind, brief = Constant(Score(1.0)), Constant(Score(None, "away"))
    scorer = PartsScorer({"kind": kind, "brief": brief})
    both, one = scorer.score([group("a", "x", "y"), group("b", "z", objectives=" kind ")])
    assert both == (Score(None, "brief: away", (ScorePart("kind", 1.0), ScorePart("brief", None, "away"))),) * 2
    assert one == (Score(None, None, (ScorePart("kind", 1.0),)),)
    assert (kind.groups, brief.groups) == (["a", "b"], ["a"])


def test_a_part_for_all_counts_beside_the_named_ones() -> None:
    kind, brief, helpful = Constant(Score(1.0)), Constant(Score(2.0)), Constant(Score(3.0))
    scorer = PartsScorer({"kind": kind, "brief": brief, "helpful": helpful}, for_all=["helpful"])
    one, both = scorer.score([group("a", "x", objectives="kind"), group("b", "y", objectives="kind,brief")])
    assert one[0].parts == (ScorePart("kind", 1.0), ScorePart("helpful", 3.0))
    assert [part.name for part in both[0].parts] == ["kind", "brief", "helpful"]
    assert (brief.groups, helpful.groups) == (["b"], ["a", "b"])


def test_a_source_for_all_counts_for_prompts_that_do_not_name_it() -> None:
    always = RewardSource(source=f"{__name__}:brevity", for_all=True)
    sources = (RewardSource(source="rules:exact"), RewardSource(source="rules:numeric"), always)
    scorer = make_scorer(RewardSpec(sources, LearnerConfig(), "", timeout=1.0, named=True))
    ((score,),) = scorer.score([group("a", "18", objectives="exact", reference="18")])
    assert score.parts == (ScorePart("exact", 1.0), ScorePart("brevity", 0.5))


def test_a_preference_counts_for_no_prompt_that_does_not_name_it() -> None:
    with pytest.raises(ValueError, match="only prompts that name P1A can be read under it; leave for_all out"):
        RewardSource(source="a/rm", preference="P1A", for_all=True)


def test_an_objective_that_no_part_scores_is_refused() -> None:
    with pytest.raises(InputError, match="names the objective 'polite', but the reward's parts are kind;"):
        PartsScorer({"kind": Constant(Score(1.0))}).score([group("a", "x", objectives="kind, polite")])


def test_a_second_scoring_adds_what_was_absent() -> None:
    before = Score(None, "b: away", (ScorePart("a", 1.0), ScorePart("b", None, "away")))
    after = Score(None, "a: away", (ScorePart("a", None, "away"), ScorePart("b", 2.0)))
    merged = merge_scores(before, after)
    assert merged == Score(None, None, (ScorePart("a", 1.0), ScorePart("b", 2.0)))
    assert [is_absent(score) for score in (before, after, merged)] == [True, True, False]
    assert merge_scores(Score(1.0), Score(None, "away")) == Score(1.0)
    assert is_absent(Score(None, "away")) and not is_absent(Score(0.0))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_scored_again(value: float) -> None:
    before = Score(None, None, (ScorePart("a", 1.0), ScorePart("b", value)))
    assert is_absent(Score(value)) and is_absent(before)
    assert merge_scores(Score(value), Score(2.0)) == Score(2.0)
    assert merge_scores(before, Score(None, None, (ScorePart("a", 3.0), ScorePart("b", 2.0)))).parts == (
        ScorePart("a", 1.0),
        ScorePart("b", 2.0),
    )


def test_weights_and_ideals_keep_their_precision() -> None:
    sources = (RewardSource(source="a/rm", weight=0.1, ideal=0.7),)
    scored = replace(group("g", "x"), scores=(Score(None, None, (ScorePart("rm", 0.3),)),))
    total = RewardCombiner(sources, "chebyshev").total(scored)
    assert total.scores[0].value == pytest.approx(-0.1 * (0.7 - 0.3), rel=1e-12)


def test_parts_are_combined_over_those_that_count() -> None:
    sources = (RewardSource(source="a/first", weight=1.0), RewardSource(source="a/second", weight=3.0))
    scores = (
        Score(None, None, (ScorePart("first", 1.0), ScorePart("second", 5.0))),
        Score(None, None, (ScorePart("first", 1.0),)),
    )
    scored = replace(group("g", "x", "y"), scores=scores)
    for kind, values in {"weighted": [4.0, 1.0], "mean": [3.0, 1.0], "min": [1.0, 1.0]}.items():
        total = RewardCombiner(sources, kind).total(scored)  # type: ignore[arg-type]
        assert [score.value for score in total.scores] == values
        assert [score.parts for score in total.scores] == [score.parts for score in scores]


def test_without_one_of_its_parts_a_score_has_no_value() -> None:
    sources = (RewardSource(source="a/first"), RewardSource(source="a/second"))
    failed = Score(None, "second: away", (ScorePart("first", 9.0), ScorePart("second", None, "away")))
    complete = Score(None, None, (ScorePart("first", 1.0), ScorePart("second", 3.0)))
    total = RewardCombiner(sources, "mean").total(replace(group("g", "x", "y"), scores=(failed, complete)))
    assert total.scores == (failed, replace(complete, value=2.0))


def test_a_normalised_part_counts_by_its_moments_and_its_own_scores_count_in_them() -> None:
    combiner = RewardCombiner([RewardSource(source="a/rm", normalise=True)], "mean")
    scores = tuple(Score(None, None, (ScorePart("rm", value),)) for value in (10.0, 20.0, 30.0))
    (taken,) = combiner.take([replace(group("g", "x", "y", "z"), scores=scores)])
    assert [score.value for score in taken.scores] == pytest.approx([-1.0, 0.0, 1.0])
    (taken,) = combiner.take([replace(group("g", "x"), scores=scores[1:2])])
    assert taken.scores[0].value == pytest.approx(0.0)


def test_what_an_environment_gave_is_added_to_the_total() -> None:
    scored = replace(group("g", "x"), scores=(Score(None, None, (ScorePart("rm", 2.0),)),))
    rewarded = replace(scored, trajectories=(replace(scored.trajectories[0], reward=0.5),))
    total = RewardCombiner([RewardSource(source="a/rm")], "mean").total(rewarded)
    assert total.scores == (Score(2.5, None, (ScorePart("rm", 2.0),)),)


def test_rules_and_code_make_one_reward() -> None:
    sources = (RewardSource(source="rules:numeric", weight=2.0), RewardSource(source=f"{__name__}:brevity"))
    scorer = make_scorer(RewardSpec(sources, LearnerConfig(), "", timeout=1.0, named=True))
    scores = scorer.score([group("a", "so 18", "18", reference="#### 18")])
    total = RewardCombiner(sources, "weighted").total(replace(group("a", "x", "y"), scores=scores[0]))
    assert [score.value for score in total.scores] == pytest.approx([(2 + 0.2) / 3, (2 + 0.5) / 3])


def test_one_source_as_a_text_scores_without_parts() -> None:
    sources = (RewardSource(source="rules:numeric"),)
    scorer = make_scorer(RewardSpec(sources, LearnerConfig(), "", timeout=1.0))
    assert scorer.score([group("a", "18", reference="18")]) == [(Score(1.0),)]


def test_a_reward_in_parts_on_several_ranks_asks_models_alone() -> None:
    sources = (RewardSource(source="a/rm"), RewardSource(source="http://127.0.0.1:1/score/judge"))
    with pytest.raises(InputError, match=r"roles.reward.spread: every actor would request the parts"):
        make_scorer(RewardSpec(sources, LearnerConfig(), "", timeout=1.0, named=True), spread=True)


def brevity(prompt: Prompt, answer: str) -> float:
    return 1.0 / len(answer)
