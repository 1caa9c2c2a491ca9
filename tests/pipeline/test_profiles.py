"""Evaluations under profiles: who reads which prompts, and figures of each profile and of all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rayalign.config import EvaluateStage, LoadedJob, load_registry
from rayalign.data.paddock import gold, prompts, tasks
from rayalign.data.preferences import under_profile
from rayalign.errors import InputError
from rayalign.pipeline.checks import check
from rayalign.pipeline.profiles import AVERAGE, asked_figures, compared, writers
from rayalign.pipeline.win_rates import compare
from rayalign.types import Candidate, Example, Message, Prompt

Study = Callable[..., LoadedJob]
REGISTRY = load_registry()
PROFILES = ("P1A", "P1B")


def stage(**settings: Any) -> EvaluateStage:
    fields: dict[str, Any] = {
        "kind": "evaluate",
        "models": {"plain": "a", "prompted": "a"},
        "unprompted": ["plain"],
        "by_profile": {"soup": {"P1A": "b", "P1B*1.0": "c"}},
        "data": {"split": "test", "preferences": {"profiles": PROFILES}},
    }
    return EvaluateStage.model_validate({**fields, **settings})


def asked(count: int) -> dict[str, Prompt]:
    """So many prompts under both profiles."""
    table: dict[str, Prompt] = {}
    for number in range(count):
        plain = Prompt(f"p{number}", (Message("user", "why ?"),))
        for name in PROFILES:
            prompt = under_profile(plain, REGISTRY.profile(name), REGISTRY)
            table[prompt.id] = prompt
    return table


def test_each_model_reads_its_own_prompts() -> None:
    fitting = [Example(prompt, ()) for prompt in asked(2).values()]
    read = {}
    for writer in writers(stage()):
        examples = writer.examples(fitting)
        read[writer.name, writer.model] = [(e.prompt.id, e.prompt.messages[-1].content == "why ?") for e in examples]
    both = [f"p{number}~{name}" for number in range(2) for name in PROFILES]
    assert read == {
        ("plain", "a"): [(name, True) for name in both],
        ("prompted", "a"): [(name, False) for name in both],
        ("soup", "b"): [("p0~P1A", False), ("p1~P1A", False)],
        ("soup", "c"): [("p0~P1B", False), ("p1~P1B", False)],
    }


def test_figures_of_all_profiles_count_a_prompt_once() -> None:
    table = asked(12)
    values = {
        "plain": dict.fromkeys(table, 0.5),
        "prompted": {name: 0.2 if prompt.meta["profile"] == "P1A" else 0.6 for name, prompt in table.items()},
        "soup": dict.fromkeys(table, 0.7),
    }
    answers = {name: {prompt_id: Candidate("x") for prompt_id in own} for name, own in values.items()}
    section = stage(against=("plain",))
    rows, comparisons = compared(section, table, answers, values, partial(compare, section, seed=0), seed=0)
    results = {(row["name"], row["metric"]): row for row in rows}
    gaps = {(row["a"], row["metric"]): row for row in comparisons}

    assert results["prompted", "gold_utility"]["mean"] == pytest.approx(0.4)
    assert results["prompted", "gold_utility"]["n"] == 12
    assert gaps["soup", "gold_utility"]["n"] == 12
    assert gaps["prompted", "gold_utility"]["mean_difference"] == pytest.approx(-0.1)
    assert gaps["prompted", "gold_utility@P1A"]["mean_difference"] == pytest.approx(-0.3)
    assert gaps["prompted", "gold_utility@P1B"]["mean_difference"] == pytest.approx(0.1)
    assert results["prompted", "gold_utility@P1A"]["mean"] == pytest.approx(0.2)

    # over the other two models: prompted loses to both under P1A, and beats one of them under P1B
    assert results["prompted", f"{AVERAGE}@P1A"]["mean"] == 0.0
    assert results["prompted", f"{AVERAGE}@P1B"]["mean"] == 50.0
    assert results["prompted", AVERAGE]["mean"] == 25.0
    assert results["soup", AVERAGE]["mean"] == 100.0


def test_what_a_profile_asks_for_is_measured_by_dimension() -> None:
    (plain, *_) = [p for p in prompts(0, "test", 40) if not tasks.parse(p.meta["task"]).style]
    table = {}
    for name in ("P1B", "P2A+P3B"):
        prompt = under_profile(plain, REGISTRY.profile(name), REGISTRY)
        table[prompt.id] = prompt
    answers = {"oracle": {name: Candidate(gold.oracle(prompt)) for name, prompt in table.items()}}
    answers["empty"] = {name: Candidate("") for name in table}
    rows = {(row["name"], row["metric"]): row["mean"] for row in asked_figures(table, answers, seed=0)}
    assert rows["oracle", "asked_level"] == rows["oracle", "asked_tone"] == 1.0
    assert rows["oracle", "asked_length"] > 0.85
    assert {rows["empty", metric] for metric in ("asked_level", "asked_length", "asked_tone")} == {0.0}


EVALUATION = """\
name: study
cluster: {cpus: 4, gpus: 0}
stages:
  base: {kind: pretrain}
  soup: {kind: evaluate, models: {base: stage:base}, against: [base], data: {preferences: PREFERENCES}, KEYS}
"""


@pytest.mark.parametrize(
    ("preferences", "keys", "message"),
    [
        ("{profiles: [P1A, P1]}", "", "data.preferences: there is no preference 'P1'"),
        ("{profiles: [P1A+P1B]}", "", "data.preferences: .*two poles of expertise"),
        ("null", "unprompted: [base]", "unprompted: it is for prompts under profiles"),
        ("{profiles: [P1A]}", "unprompted: [bass]", "there is no model 'bass'; did you mean base"),
        ("null", "by_criterion: [pool]", "by_criterion: it is for prompts under profiles"),
        ("{profiles: [P1A]}", "by_criterion: [pool]", "by_criterion: 'pool' is none of the stage's annotators"),
        ("{profiles: [P1A]}", "annotator: pool, by_criterion: [pol]", "annotators; did you mean pool"),
        ("{profiles: [P1A], file: OWN}", "annotator: pool, by_criterion: [pool]", "a preference is named helpfulness"),
        ("{profiles: [P1A, P1B]}", "by_profile: {s: {P1A: stage:base}}", "by_profile.s: no model for P1B; add one"),
        ("{profiles: [P1A]}", "by_profile: {s: {P1A: stage:base, P9: stage:base}}", "no preference 'P9'"),
        ("{profiles: [P1A]}", "by_profile: {s: {P1A: stage:base, P1B: stage:base}}", "P1B is none of the profiles"),
        ("{profiles: [P1A]}", "by_profile: {base: {P1A: stage:base}}", "models has that name too"),
        ("{profiles: [P1A]}", "by_profile: {s: {P1A: stage:nobody}}", "by_profile.s.P1A"),
    ],
)
def test_what_is_wrong_with_profiles_is_said_before_the_start(
    study: Study, tmp_path: Path, preferences: str, keys: str, message: str
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("helpfulness: {dimension: use, pole: useful, wordings: [Help.], criterion: which answer helps}\n")
    preferences = preferences.replace("OWN", str(own))
    loaded = study(text=EVALUATION.replace("PREFERENCES", preferences).replace("KEYS", keys).replace(", }", "}"))
    with pytest.raises(InputError, match=message):
        check(loaded)
