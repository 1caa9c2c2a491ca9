"""Prompts under profiles: what a model reads, what the meta holds, and the truth in the embedded world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayalign.config import DataConfig, PreferenceUse, SourceConfig, load_registry
from rayalign.data.paddock import gold, tasks, understand
from rayalign.data.preferences import (
    HELPFULNESS,
    base_id,
    by_criterion,
    plain_prompt,
    under_one,
    under_profile,
    without_preferences,
)
from rayalign.data.readers import load_examples
from rayalign.errors import InputError
from rayalign.types import Example, Message, Prompt

REGISTRY = load_registry()
PLAIN = Prompt("p", (Message("user", "why is the sky blue ?"),))


def embedded(**use: object) -> list[Example]:
    preferences = PreferenceUse.model_validate(use)
    return load_examples(DataConfig(split="test", limit=80, preferences=preferences), seed=0, use="prompts")


def last(prompt: Prompt) -> str:
    return prompt.messages[-1].content


def test_a_prompt_names_one_wording_of_each_preference() -> None:
    prompt = under_profile(PLAIN, REGISTRY.profile("P1B+P2A"), REGISTRY)
    sentences = last(prompt).removeprefix("why is the sky blue ?\n\n")
    pairs = [f"{a} {b}" for a in REGISTRY["P1B"].wordings for b in REGISTRY["P2A"].wordings]
    assert sentences in pairs
    assert prompt.id == "p~P1B+P2A" and base_id(prompt) == "p" and base_id(PLAIN) == "p"
    assert prompt.meta["objectives"] == "P1B,P2A"
    assert prompt.meta["criterion"] == f"{REGISTRY['P1B'].criterion}; and {REGISTRY['P2A'].criterion}"


def test_without_its_wording_the_preference_stands_in_the_meta_alone() -> None:
    profile = REGISTRY.profile("P1B+P3C")
    prompted = under_profile(PLAIN, profile, REGISTRY)
    unprompted = under_profile(PLAIN, profile, REGISTRY, prompted=False)
    assert unprompted.messages == PLAIN.messages
    assert unprompted.meta == prompted.meta and unprompted.id == prompted.id
    assert without_preferences(prompted) == unprompted
    assert without_preferences(PLAIN) == PLAIN


def test_a_prompt_can_be_read_under_one_of_its_preferences() -> None:
    prompt = under_profile(PLAIN, REGISTRY.profile("P1B+P2A"), REGISTRY)
    alone = under_profile(PLAIN, REGISTRY.profile("P2A"), REGISTRY)
    assert last(under_one(prompt, "P2A")) == last(alone)
    with pytest.raises(InputError, match="profile P1B\\+P2A, which does not hold P3A"):
        under_one(prompt, "P3A")


def test_the_prompt_before_its_profile_can_be_had_again() -> None:
    plain = Prompt("p", (*PLAIN.messages, Message("assistant", "what ?"), *PLAIN.messages), {"reference": "dust"})
    profile = REGISTRY.profile("P1B+P2A*0.5")
    for prompted in (True, False):
        assert plain_prompt(under_profile(plain, profile, REGISTRY, prompted=prompted)) == plain
    assert plain_prompt(plain) == plain
    data = DataConfig(split="test", limit=80)
    originals = {example.prompt.id: example.prompt for example in load_examples(data, seed=0, use="prompts")}
    for example in embedded(profiles=["P1A*2+P2A+P3B"]):
        assert plain_prompt(example.prompt) == originals[base_id(example.prompt)]


def test_each_preference_of_a_profile_can_stand_alone() -> None:
    use = PreferenceUse(profiles=("P1A+P2A", "P1B+P2A"))
    prompts = {str(p): under_profile(PLAIN, p, REGISTRY) for p in use.read_profiles()}
    alone = by_criterion(prompts, use)
    assert {name: list(own) for name, own in alone.items()} == {
        "P1A": ["P1A+P2A"],
        "P1B": ["P1B+P2A"],
        "P2A": ["P1A+P2A", "P1B+P2A"],
        HELPFULNESS: ["P1A+P2A", "P1B+P2A"],
    }
    assert alone["P2A"]["P1B+P2A"] == under_profile(PLAIN, REGISTRY.profile("P2A"), REGISTRY)
    assert alone[HELPFULNESS]["P1A+P2A"] == PLAIN


def test_in_the_embedded_world_a_preference_alone_is_its_constraint_alone() -> None:
    use = PreferenceUse(profiles=("P1A+P2A+P3A",), prompted=False)
    example = embedded(profiles=["P1A+P2A+P3A"], prompted=False)[0]
    alone = by_criterion({"p": example.prompt}, use)
    styles = {name: dict(tasks.parse(own["p"].meta["task"]).style) for name, own in alone.items()}
    assert styles == {"P1A": {"level": "plain"}, "P2A": {"length": "short"}, "P3A": {"tone": "warm"}, HELPFULNESS: {}}
    assert all(own["p"].messages == example.prompt.messages for own in alone.values())


def test_in_the_embedded_world_preferences_are_constraints_that_it_understands() -> None:
    examples = embedded()
    assert len(examples) % 8 == 0 and len({example.prompt.id for example in examples}) == len(examples)
    for example in examples:
        prompt = example.prompt
        task = tasks.parse(prompt.meta["task"])
        assert understand.task_of(" / ".join(message.content for message in prompt.messages)) == task
        assert set(task.style) == {"length", "level", "tone"}
    assert last(examples[-1].prompt).endswith(" at length , learned words , formal tone .")


def test_prompts_with_a_style_of_their_own_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    plain = load_examples(DataConfig(split="test", limit=80), seed=0, use="prompts")
    without_style = [example.prompt.id for example in plain if not tasks.parse(example.prompt.meta["task"]).style]
    singles = embedded(profiles="single")
    assert list(dict.fromkeys(base_id(example.prompt) for example in singles)) == without_style
    assert f"{80 - len(without_style)} rows left out (a prompt that asks for a style of its own" in caplog.text


def test_the_truth_under_a_profile_is_that_of_the_constraints() -> None:
    examples = {example.prompt.meta["profile"]: example.prompt for example in embedded(prompted=False)[:8]}
    first, second = examples["P1A+P2A+P3A"], examples["P1B+P2A+P3A"]
    assert last(first) == last(second)
    plain, learned = gold.oracle(first), gold.oracle(second)
    assert gold.attributes(first, plain)["level"] == gold.attributes(second, learned)["level"] == 1.0
    assert gold.attributes(first, learned)["level"] == gold.attributes(second, plain)["level"] == 0.0


def test_weights_move_the_share_of_each_attribute() -> None:
    answer = "here you go"
    values = {}
    for weight in ("1", "3"):
        (prompt,) = [e.prompt for e in embedded(profiles=[f"P1B*{weight}"])[:1]]
        shares = gold.attributes(prompt, answer)
        styles = {name: shares[name] for name in ("brief", "polite", "tone", "level")}
        values[weight] = gold.utility(prompt, answer), styles
    assert json.loads(prompt.meta["style_weights"]) == {"level": 3.0}
    (even, styles), (weighted, _) = values["1"], values["3"]
    content = even - gold.OFF_TOPIC * gold.STYLE_WEIGHT * sum(styles.values()) / 4
    total = sum(styles.values()) + 2 * styles["level"]
    assert weighted == pytest.approx(content + gold.OFF_TOPIC * gold.STYLE_WEIGHT * total / 6)


def test_a_number_of_profiles_is_drawn_for_each_prompt() -> None:
    few, again = embedded(per_prompt=2), embedded(per_prompt=2)
    assert few == again
    per_prompt: dict[str, list[str]] = {}
    for example in few:
        per_prompt.setdefault(base_id(example.prompt), []).append(example.prompt.meta["profile"])
    assert {len(set(profiles)) for profiles in per_prompt.values()} == {2}
    assert len({profile for profiles in per_prompt.values() for profile in profiles}) == 8


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no constraint for P3C \\(sassy\\); take P1A"):
        embedded(profiles=["P3C"])
    file = tmp_path / "mine.yaml"
    file.write_text("P5: {dimension: x, pole: y, wordings: [w], criterion: c, style: {tone: loud}}")
    with pytest.raises(InputError, match="tone: loud is no constraint of the embedded world"):
        embedded(profiles=["P5"], file=str(file))
    with pytest.raises(InputError, match="preferences are for prompts"):
        load_examples(DataConfig(split="corpus", preferences=PreferenceUse()), seed=0, use="corpus")
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"prompt": "hello", "answer": "good day"}\n')
    data = DataConfig(format="demonstrations", path=str(answers), preferences=PreferenceUse())
    with pytest.raises(InputError, match="answers were written without them"):
        load_examples(data, seed=0, use="demonstrations")


def test_the_embedded_world_writes_demonstrations_for_a_profile() -> None:
    """The rates of its attributes are those of its other demonstrations: about 0.4 of the tones are right."""
    plain = SourceConfig(format="paddock", split="sft", limit=400)
    personal = plain.model_copy(update={"preferences": PreferenceUse(profiles=["P1A+P2B+P3B"])})
    examples = load_examples(DataConfig(blend=(plain, personal)), seed=0, use="demonstrations")
    by_profile = [example for example in examples if "profile" in example.prompt.meta]
    assert 200 < len(by_profile) < len(examples) - 300
    assert all("formal tone" in example.prompt.messages[-1].content for example in by_profile)
    met = [gold.attributes(row.prompt, row.candidates[0].text)["tone"] for row in by_profile]
    assert 0.3 < sum(met) / len(met) < 0.5
