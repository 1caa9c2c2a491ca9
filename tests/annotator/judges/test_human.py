from __future__ import annotations

import math

import pytest

from rayalign.annotator.judges.human import Opinion, felt, holds_list, opinion
from rayalign.config import HumanConfig

N = 4000


def ask(human: HumanConfig, felt_as: tuple[float, float], seed: int = 1, n: int = N, name: str = "") -> list[Opinion]:
    return [opinion(human, felt_as, ("Ab", "Abcd"), f"{name}{i}", seed) for i in range(n)]


def share(human: HumanConfig, felt_as: tuple[float, float], preference: float | None, seed: int = 1) -> float:
    return [o.preference for o in ask(human, felt_as, seed)].count(preference) / N


def test_the_choice_is_bradley_terry() -> None:
    human = HumanConfig(temperature=0.25)
    assert share(human, (0.5, 0.25), 1.0) == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)
    assert share(human, (0.25, 0.5), 1.0) == pytest.approx(1 / (1 + math.exp(1)), abs=0.03)
    assert share(HumanConfig(temperature=1e-6), (0.5, 0.4999), 1.0) == 1.0


def test_flips_abstentions_and_ties_have_their_share() -> None:
    assert share(HumanConfig(temperature=1e-6, flip=0.25), (0.5, 0.1), 2.0) == pytest.approx(0.25, abs=0.03)
    assert share(HumanConfig(temperature=1e-6, abstain=0.1), (0.5, 0.1), None) == pytest.approx(0.1, abs=0.02)
    assert share(HumanConfig(tie=0.2), (0.5, 0.31), 1.5) == 1.0
    assert share(HumanConfig(tie=0.2), (0.5, 0.29), 1.5) == 0.0


def test_the_draws_of_one_opinion_are_independent() -> None:
    human = HumanConfig(temperature=0.25, flip=0.25, abstain=0.2)
    said = [o.preference for o in ask(human, (0.5, 0.25))]
    p = 1 / (1 + math.exp(-1))
    assert said.count(1.0) / N == pytest.approx(0.8 * (0.75 * p + 0.25 * (1 - p)), abs=0.03)
    assert said.count(None) / N == pytest.approx(0.2, abs=0.03)


def test_tastes_add_to_the_utility() -> None:
    human = HumanConfig(length_bias=0.01, list_bias=0.5)
    assert felt(human, 0.2, "three words here") == pytest.approx(0.23)
    assert felt(human, 0.2, "here it is : * one") == pytest.approx(0.2 + 0.06 + 0.5)
    assert share(HumanConfig(temperature=0.1, position_bias=0.1), (0.5, 0.5), 1.0) == pytest.approx(0.731, abs=0.03)


@pytest.mark.parametrize("text", ["a : * b", "- b\n- c", "so:\n 1. b\n 2. c", "• b", "first\n* b"])
def test_lists_are_seen(text: str) -> None:
    assert holds_list(text)


@pytest.mark.parametrize("text", ["", "well - no", "2*3 is 6", "in 1. and", "a-b"])
def test_other_text_is_no_list(text: str) -> None:
    assert not holds_list(text)


def test_the_other_order_mirrors_but_for_the_position() -> None:
    human = HumanConfig(temperature=0.3, flip=0.2, tie=0.01, abstain=0.05, self_disagreement=0.5)
    for i in range(500):
        one = opinion(human, (0.5, 0.4), ("x", "y"), f"{i}", 3)
        other = opinion(human, (0.4, 0.5), ("y", "x"), f"{i}", 3)
        assert one.explanation == other.explanation
        assert (one.preference is None) == (other.preference is None)
        assert one.preference is None or one.preference + (other.preference or 0.0) == 3.0
    placed = human.model_copy(update={"position_bias": 5.0, "flip": 0.0, "abstain": 0.0})
    assert {opinion(placed, (0.4, 0.5), ("x", "y"), f"{i}", 3).preference for i in range(200)} == {1.0}
    assert {opinion(placed, (0.5, 0.4), ("y", "x"), f"{i}", 3).preference for i in range(200)} == {1.0}


def test_self_disagreement_is_the_share_drawn_afresh() -> None:
    for fresh in (0.0, 0.4, 1.0):
        human = HumanConfig(temperature=1e9, self_disagreement=fresh)
        one, other = (ask(human, (0.5, 0.4), seed) for seed in (1, 2))
        changed = sum(a.preference != b.preference for a, b in zip(one, other, strict=True)) / N
        assert changed == pytest.approx(fresh / 2, abs=0.03)
        assert [o.preference for o in one].count(1.0) / N == pytest.approx(0.5, abs=0.03)


def test_annotators_err_on_other_pairs() -> None:
    human = HumanConfig(temperature=1e9)
    assert ask(human, (0.5, 0.4), name="ann") == ask(human, (0.5, 0.4), name="ann")
    differing = zip(ask(human, (0.5, 0.4), name="ann"), ask(human, (0.5, 0.4), name="bob"), strict=True)
    assert sum(a != b for a, b in differing) / N == pytest.approx(0.5, abs=0.03)


def test_equal_answers_tie_whatever_the_noise() -> None:
    human = HumanConfig(flip=0.5, abstain=1.0, position_bias=3.0)
    assert opinion(human, (0.5, 0.5), ("x", "x"), "k", 0).preference == 1.5


def test_text_that_is_no_unicode_is_no_obstacle() -> None:
    assert opinion(HumanConfig(), (1.0, 0.0), ("\ud800", "y"), "k", 0).preference == 1.0
