from __future__ import annotations

import math
import random

import numpy as np
import pytest

from rayalign.annotator.judges.human import felt, opinion
from rayalign.config import HumanConfig
from rayalign.errors import InputError
from rayalign.evaluation.fit_human import Case, fit_to_labels, fit_to_target, share


def cases(n: int, seed: int = 0) -> list[Case]:
    """Pairs of answers of 1 to 30 words, some of them lists, with utilities from 0 to 1."""
    rng = random.Random(seed)

    def answer() -> str:
        return ("* " if rng.random() < 0.4 else "") + " ".join(rng.choices("abcdefgh", k=rng.randint(1, 30)))

    return [Case((answer(), answer()), (rng.random(), rng.random())) for _ in range(n)]


def say(human: HumanConfig, case: Case, name: str, seed: int = 0) -> float | None:
    (a, b), (u, v), _ = case
    return opinion(human, (felt(human, u, a), felt(human, v, b)), case.answers, f"{name}{u}", seed).preference


def labelled(human: HumanConfig, n: int) -> list[Case]:
    return [case._replace(label=say(human, case, "ann")) for case in cases(n)]


def measured(human: HumanConfig, pairs: list[Case]) -> tuple[float, float]:
    """Agreement and variance of four draws, counted as AlpacaEval does."""
    draws = np.array([[say(human, case, "ann", seed) for seed in range(4)] for case in pairs])
    gold = np.array([1.0 if c.utilities[0] > c.utilities[1] else 2.0 for c in pairs])
    left_out = [np.median(np.delete(draws, i, axis=1), axis=1) for i in range(4)]
    errors = [np.abs(draws[:, i] - left_out[i]).mean() for i in range(4)]
    return 100 * (1 - np.abs(draws - gold[:, None]).mean()), 100 * float(np.mean(errors))


@pytest.mark.parametrize(
    ("agreement", "variance", "base"),
    [
        (65.7, 34.3, HumanConfig()),
        (65.7, 34.3, HumanConfig(length_bias=0.01, list_bias=0.05)),
        (75.0, 20.0, HumanConfig(flip=0.1)),
        (80.0, 0.0, HumanConfig()),
    ],
)
def test_targets_are_met_by_what_is_drawn(agreement: float, variance: float, base: HumanConfig) -> None:
    fitted = fit_to_target(cases(3000), agreement, variance, base=base)
    assert fitted.figures["agreement"].value == pytest.approx(agreement, abs=0.01)
    assert fitted.figures["variance"].value == pytest.approx(variance, abs=0.01)
    assert (fitted.human.flip, fitted.human.length_bias) == (base.flip, base.length_bias)
    found = measured(fitted.human, cases(3000))
    assert found == pytest.approx((agreement, variance), abs=2.0)
    assert all(e.low <= e.value <= e.high for e in fitted.figures.values())


def test_the_expected_figures_by_hand() -> None:
    # one pair, P(first) = 0.75 at the agreement asked for: the mode of three is first with 0.84375
    fitted = fit_to_target([Case(("a", "b"), (1.0, 0.0))], 75.0, 10.0)
    assert fitted.human.temperature == pytest.approx(1 / math.log(3))
    assert fitted.figures["between"].value == pytest.approx(100 * (0.75 * 0.15625 + 0.25 * 0.84375))
    assert fitted.human.self_disagreement == pytest.approx(10 / fitted.figures["between"].value)


def test_targets_that_can_not_be_had_are_refused() -> None:
    with pytest.raises(InputError, match=r"to 90\.0 at a low one"):
        fit_to_target(cases(50), 95.0, 10.0, base=HumanConfig(flip=0.1))
    with pytest.raises(InputError, match="the variance on these pairs is at most"):
        fit_to_target(cases(50), 90.0, 34.3)
    with pytest.raises(InputError, match="same utility"):
        fit_to_target([Case(("a", "b"), (1.0, 1.0))], 65.7, 34.3)
    with pytest.raises(InputError, match="pair 1"):
        fit_to_target([Case(("a", "b"), (1.0, 0.0)), Case(("a", "b"), (math.nan, 0.0))], 65.7, 34.3)


def test_parameters_that_made_the_labels_are_recovered() -> None:
    human = HumanConfig(
        temperature=0.1, flip=0.1, length_bias=0.01, position_bias=0.08, list_bias=0.15, tie=0.05, abstain=0.05
    )
    fitted = fit_to_labels(labelled(human, 6000))
    tolerance = {
        "temperature": 0.02, "flip": 0.02, "length_bias": 0.002, "position_bias": 0.02, "list_bias": 0.03,
        "tie": 0.01, "abstain": 0.01,
    }  # fmt: skip
    for name, off in tolerance.items():
        assert getattr(fitted.human, name) == pytest.approx(getattr(human, name), abs=off), name
    within = [fitted.figures[name].low <= getattr(human, name) <= fitted.figures[name].high for name in tolerance]
    # each of the seven 95% intervals may miss
    assert sum(within) >= 6
    assert fitted.warnings == ()


def test_a_plain_human_is_found_plain() -> None:
    fitted = fit_to_labels(labelled(HumanConfig(temperature=0.3), 4000))
    assert fitted.human.temperature == pytest.approx(0.3, abs=0.05)
    assert fitted.human.flip == fitted.human.tie == fitted.human.abstain == 0.0
    for name in ("length_bias", "position_bias", "list_bias"):
        assert fitted.figures[name].low <= 0.0 <= fitted.figures[name].high


def test_what_the_pairs_can_not_show_is_said() -> None:
    plain = [case._replace(answers=(f"a {i}", f"b {i}")) for i, case in enumerate(labelled(HumanConfig(), 200))]
    fitted = fit_to_labels(plain)
    assert [w for w in fitted.warnings if "left at 0" in w and "flip" not in w] == [
        "length_bias: these pairs can't show it; left at 0",
        "list_bias: these pairs can't show it; left at 0",
    ]
    assert fitted.human.length_bias == fitted.human.list_bias == 0.0


def test_labels_without_exception_bound_the_temperature() -> None:
    fitted = fit_to_labels(labelled(HumanConfig(temperature=1e-9), 500))
    assert len(fitted.warnings) == 1 and "without exception" in fitted.warnings[0]
    assert fitted.human.temperature < 0.03 and fitted.figures["agreement"].value == 100.0


def test_labels_that_follow_utilities_and_a_bias_are_not_said_to_be_at_random() -> None:
    # equal utilities, which the bias decides, make no exception; the temperature has no upper bound all the same
    rows = [Case(("a", "b"), (i % 7 / 7, i * 3 % 5 / 5)) for i in range(60)]
    fitted = fit_to_labels([c._replace(label=1.0 + (c.utilities[0] < c.utilities[1])) for c in rows])
    assert fitted.figures["temperature"].high == math.inf
    assert [w for w in fitted.warnings if w.startswith("temperature")][0].count("without exception") == 1


def test_labels_that_hardly_follow_the_utilities_are_said() -> None:
    rows = [case._replace(label=say(HumanConfig(temperature=5.0), case, "ann")) for case in cases(300, seed=1)]
    fitted = fit_to_labels(rows)
    assert any("hardly follow" in w for w in fitted.warnings)
    assert fitted.figures["temperature"].high == math.inf and fitted.human.flip == 0.0


def test_flip_and_temperature_that_can_not_be_told_apart_are_said() -> None:
    # utilities so close together that the choice is nearly linear in them
    close = [case._replace(utilities=(case.utilities[0] / 4, case.utilities[1] / 4)) for case in cases(800)]
    human = HumanConfig(temperature=0.2, flip=0.1)
    fitted = fit_to_labels([case._replace(label=say(human, case, "ann")) for case in close])
    assert any(w.startswith("flip: the labels don't tell it from 0") for w in fitted.warnings)


def test_ties_that_follow_something_else_are_said() -> None:
    rng = random.Random(3)
    rows = [c if rng.random() < 0.8 else c._replace(label=1.5) for c in labelled(HumanConfig(), 1000)]
    assert any(w.startswith("tie: only") for w in fit_to_labels(rows).warnings)


def test_labels_that_can_not_be_fitted_are_refused() -> None:
    rows = labelled(HumanConfig(), 400)
    with pytest.raises(InputError, match="do not rise with the utilities"):
        fit_to_labels([c._replace(label=3.0 - (c.label or 1.5)) for c in rows])
    with pytest.raises(InputError, match="fewest"):
        fit_to_labels(rows[:10])
    with pytest.raises(InputError, match="fewest"):
        fit_to_labels([])
    with pytest.raises(InputError, match="outside 1 to 2"):
        fit_to_labels([c._replace(label=0.0) for c in rows])


def test_wilson_s_interval_by_hand() -> None:
    # 0 of 10: the upper bound is z^2 / (n + z^2)
    z2 = 1.959964**2
    assert share(0.0, 10) == pytest.approx((0.0, 0.0, z2 / (10 + z2)), abs=1e-12)
