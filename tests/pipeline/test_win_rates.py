from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from rayalign.config import EvaluateStage, load_registry
from rayalign.data.preferences import under_profile
from rayalign.errors import InputError
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.win_rates import annotated, compare, judge_correlations
from rayalign.types import Candidate, Message, Prompt

REGISTRY = load_registry()
Judged = list[tuple[Prompt, str, str]]
VALUES = {
    "sft": {"p1": 0.2, "p2": 0.5, "p3": 0.8, "p4": 0.5},
    "ppo": {"p4": 0.4, "p3": 0.8, "p2": 0.9},
    "oracle": {"p1": 1.0, "p2": 1.0, "p3": 1.0, "p4": 1.0},
}


def table(*against: str) -> tuple[dict[tuple[str, str], dict[str, Any]], dict[tuple[str, str], dict[str, Any]]]:
    stage = EvaluateStage(
        kind="evaluate", models={"sft": "a", "ppo": "b"}, baselines=("oracle",), against=against, metric="gold_utility"
    )
    results, comparisons = compare(stage, VALUES, seed=0)
    return {(r["name"], r["metric"]): r for r in results}, {(c["a"], c["b"]): c for c in comparisons}


def test_means_with_their_intervals() -> None:
    results, _ = table()
    sft = results["sft", "gold_utility"]
    assert (sft["mean"], sft["n"]) == (pytest.approx(0.5), 4)
    assert 0.2 <= sft["low"] < 0.5 < sft["high"] <= 0.8
    assert results["ppo", "gold_utility"]["mean"] == pytest.approx(0.7)
    oracle = results["oracle", "gold_utility"]
    assert (oracle["mean"], oracle["low"], oracle["high"]) == (1.0, 1.0, 1.0)


def test_differences_are_paired_over_the_prompts_that_both_have() -> None:
    _, comparisons = table()
    assert ("sft", "sft") not in comparisons
    gap = comparisons["ppo", "sft"]
    assert (gap["mean_difference"], gap["n"]) == (pytest.approx((0.4 + 0.0 - 0.1) / 3), 3)
    assert gap["metric"] == "gold_utility"
    assert -0.1001 <= gap["low"] < gap["mean_difference"] < gap["high"] <= 0.4001


def test_a_draw_is_half_a_win() -> None:
    results, _ = table()
    wins = results["ppo", "win_rate_by_gold_against_sft"]
    assert (wins["mean"], wins["n"]) == (pytest.approx(50.0), 3)  # won p2, drew p3, lost p4
    assert 0.0 <= wins["low"] < 50.0 < wins["high"] <= 100.0


def test_a_model_without_any_value_is_named_and_has_no_row(caplog: pytest.LogCaptureFixture) -> None:
    stage = EvaluateStage(kind="evaluate", models={"sft": "a", "ppo": "b"}, metric="reward", reward="stage:rm")
    results, comparisons = compare(stage, {"sft": {"p1": 0.5}, "ppo": {}}, seed=0)
    assert [row["name"] for row in results] == ["sft"]
    assert not comparisons
    assert "ppo: no answer has a value of reward, so it has no row" in caplog.text
    with pytest.raises(InputError, match="no answer of any model has a value of reward"):
        compare(stage, {"sft": {}, "ppo": {}}, seed=0)


def test_every_model_is_compared_with_every_one_to_beat() -> None:
    results, comparisons = table("ppo", "oracle")
    assert {("sft", "ppo"), ("sft", "oracle"), ("ppo", "oracle")} <= comparisons.keys()
    assert ("ppo", "ppo") not in comparisons
    assert comparisons["sft", "ppo"]["mean_difference"] == pytest.approx(-0.1)
    assert comparisons["sft", "oracle"]["mean_difference"] == pytest.approx(-0.5)
    assert results["sft", "win_rate_by_gold_against_oracle"]["mean"] == 0.0


def test_judges_are_correlated_over_the_models_that_both_compared() -> None:
    rates = {"pool": {"a": 60.0, "b": 50.0, "c": 70.0}, "gold": {"a": 80.0, "b": 90.0, "c": 95.0, "d": 1.0}}
    rows = []
    for judge, own in rates.items():
        rows += [
            {"name": name, "metric": f"win_rate_by_{judge}_against_sft", "mean": rate} for name, rate in own.items()
        ]
    (row,) = judge_correlations(["pool", "gold"], ["sft"], rows)
    assert (row["metric"], row["n"]) == ("rank_correlation_of_pool_and_gold_against_sft", 3)
    assert row["mean"] == pytest.approx(0.5)  # ranks 1 0 2 and 0 1 2
    assert judge_correlations(["pool"], ["sft"], rows) == []


def test_a_win_rate_carries_the_name_of_who_judged() -> None:
    models = {"sft": "a", "ppo": "b"}
    by_reward = EvaluateStage(kind="evaluate", models=models, metric="reward", reward="stage:rm")
    results, _ = compare(by_reward, VALUES, seed=0)
    assert "win_rate_by_reward_against_sft" in {row["metric"] for row in results}
    # an annotator of that name gives the win rates itself
    by_annotator = EvaluateStage(kind="evaluate", models=models, metric="gold_utility", annotator=("pool", "gold"))
    results, _ = compare(by_annotator, VALUES, seed=0)
    assert {row["metric"] for row in results} == {"gold_utility"}


def test_a_row_says_why_its_n_is_less() -> None:
    results, comparisons = table()
    assert "note" not in results["sft", "gold_utility"]
    assert results["ppo", "gold_utility"]["note"] == "1 of 4 prompts have no value"
    assert results["ppo", "win_rate_by_gold_against_sft"]["note"] == "1 of 4 prompts have no value of both"
    assert comparisons["ppo", "sft"]["note"] == "1 of 4 prompts have no value of both"


class Wisher:
    """An annotator whose only criterion is that of P1A: the answer `simple` meets it; it notes what it was asked."""

    def __init__(self) -> None:
        self.asked: Judged = []
        self.closed = False

    def compare(self, pairs: Judged, *, seed: int) -> list[float | None]:
        self.asked += pairs
        return [self._verdict(*pair) for pair in pairs]

    def _verdict(self, prompt: Prompt, first: str, second: str) -> float:
        if prompt.meta.get("criterion") != REGISTRY["P1A"].criterion or first == second:
            return 1.5
        return 2.0 if second == "simple" else 1.0

    def close(self) -> None:
        self.closed = True


class FakeContext:
    """The job's seed and its only annotator."""

    def __init__(self, annotator: Wisher) -> None:
        self.job = SimpleNamespace(seed=0)
        self._annotator = annotator

    def annotator(self, name: str) -> Wisher:
        return self._annotator


def judged(
    annotator: Wisher, /, *profiles: str, count: int = 3, **settings: Any
) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows by name and metric; `soup` answers `simple` where the profile holds P1A, and `base` never does."""
    fields = {"kind": "evaluate", "models": {"base": "a", "soup": "b"}, "annotator": "wisher", **settings}
    data = {"split": "test", "preferences": {"profiles": list(profiles)}}
    stage = EvaluateStage.model_validate({**fields, "data": data})
    prompts: dict[str, Prompt] = {}
    answers: dict[str, dict[str, Candidate]] = {"base": {}, "soup": {}}
    for number in range(count):
        plain = Prompt(f"p{number}", (Message("user", "why ?"),), {"reference": "x"})
        for name in profiles:
            prompt = under_profile(plain, REGISTRY.profile(name), REGISTRY)
            prompts[prompt.id] = prompt
            answers["base"][prompt.id] = Candidate("long")
            answers["soup"][prompt.id] = Candidate("simple" if "P1A" in name else "long")
    rows = annotated(cast(RunContext, FakeContext(annotator)), stage, prompts, answers)
    assert annotator.closed
    return {(row["name"], row["metric"]): row for row in rows}


def test_an_annotator_has_a_win_rate_over_all_profiles_and_under_each() -> None:
    annotator = Wisher()
    rows = judged(annotator, "P1A", "P1B")
    metric = "win_rate_by_wisher_against_base"
    means = {("soup", metric): 75.0, ("soup", f"{metric}@P1A"): 100.0, ("soup", f"{metric}@P1B"): 50.0}
    assert {key: row["mean"] for key, row in rows.items()} == means
    assert [row["n"] for row in rows.values()] == [3, 3, 3]  # a prompt counts once, however many profiles it has
    assert len(annotator.asked) == 6
    assert [(first, second) for _, first, second in annotator.asked[:2]] == [("long", "simple"), ("long", "long")]


def test_each_preference_of_a_profile_is_judged_alone_and_helpfulness_beside_it() -> None:
    annotator = Wisher()
    rows = judged(annotator, "P1A+P2A", "P1B+P2A", by_criterion=["wisher"])
    rates = {}
    for (name, metric), row in rows.items():
        if "criterion" in row:
            assert (name, metric) == ("soup", f"win_rate_by_wisher_on_{row['criterion']}_against_base")
            rates[row["criterion"]] = (row["mean"], row["n"])
    # the annotator knows only the criterion of P1A, so every other one is a draw, the joint one too
    assert rates == {"P1A": (100.0, 3), "P1B": (50.0, 3), "P2A": (50.0, 3), "helpfulness": (50.0, 3)}
    assert rows["soup", "win_rate_by_wisher_against_base"]["mean"] == 50.0
    assert len(annotator.asked) == 6 + 3 + 3 + 6 + 6  # whole profiles, P1A, P1B, P2A, helpfulness


def test_a_judge_by_one_criterion_reads_a_prompt_that_names_it_alone() -> None:
    annotator = Wisher()
    judged(annotator, "P1A+P2A", count=1, by_criterion=["wisher"])
    plain = Prompt("p0", (Message("user", "why ?"),), {"reference": "x"})
    alone = [under_profile(plain, REGISTRY.profile(name), REGISTRY) for name in ("P1A", "P2A")]
    assert [prompt for prompt, _, _ in annotator.asked[1:]] == [*alone, plain]


def test_annotators_compare_by_single_criteria_where_the_stage_names_them_alone() -> None:
    annotator = Wisher()
    rows = judged(annotator, "P1A+P2A", annotator=["other", "wisher"], by_criterion=["wisher"])
    judges = {metric.partition("_on_")[0] for _, metric in rows if "_on_" in metric}
    assert judges == {"win_rate_by_wisher"}
    assert not any("criterion" in row for row in judged(Wisher(), "P1A+P2A").values())
