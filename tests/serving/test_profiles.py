"""What a request may name, and the sentence for what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from rayalign.config import Registry, load_registry
from rayalign.errors import InputError
from rayalign.serving.profiles import Profiles, UnknownModel

REGISTRY = load_registry()
SERVED = Profiles(REGISTRY, ["P3A", "P1A", "P1B", "P2B"])


def test_the_base_has_no_weights() -> None:
    assert SERVED.requested("base", None) == ()


def test_weights_are_taken_as_they_are_in_one_order() -> None:
    profile = SERVED.requested("base", {"P2B": 0.3, "P1A": 0.5, "P3A": 0.0})
    assert profile == (("P1A", 0.5), ("P2B", 0.3))
    assert str(profile) == "P1A*0.5+P2B*0.3"


def test_a_profile_by_its_name_has_weights_that_sum_to_one() -> None:
    assert SERVED.requested("P2B", None) == (("P2B", 1.0),)
    assert SERVED.requested("P3A + P1A", None) == (("P1A", 0.5), ("P3A", 0.5))
    assert SERVED.requested("P1A+P2B*0.5+P3A*0.5", None) == (("P1A", 0.5), ("P2B", 0.25), ("P3A", 0.25))


def test_the_models_are_the_base_the_preferences_and_their_profiles() -> None:
    names = SERVED.names()
    assert names == ["base", "P1A", "P1B", "P2B", "P3A", "P1A+P2B+P3A", "P1B+P2B+P3A"]
    for name in names:
        SERVED.requested(name, None)


def test_sixteen_profiles_of_eight_adapters_are_listed() -> None:
    assert len(Profiles(REGISTRY, list(REGISTRY)).names()) == 1 + 8 + 16


def test_too_many_profiles_are_not_listed_and_can_be_requested() -> None:
    section = REGISTRY["P1A"]
    preferences = {}
    for number in range(18):
        dimension = f"dimension {number // 2}"
        preferences[f"Q{number}"] = section.model_copy(update={"dimension": dimension})
    many = Profiles(Registry(preferences), list(preferences))
    assert len(many.names()) == 1 + 18
    assert len(many.requested("+".join(f"Q{number}" for number in range(0, 18, 2)), None)) == 9


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("base", {"P9": 1.0}, "weights: there is no preference 'P9'; served: P1A, P1B, P2B, P3A"),
        ("base", {"P1a": 1.0}, "weights: there is no preference 'P1a'; did you mean P1"),
        ("base", {"P3C": 1.0}, "weights: no adapter is served for P3C"),
        ("base", {"P3C": 0.0, "P1A": 1.0}, "weights: no adapter is served for P3C"),
        ("base", {"P1A": 0.0, "P2B": -0.0}, "weights: all are zero"),
        ("base", {}, "weights: all are zero"),
        ("base", {"P1A": float("nan")}, "weights: the weight of P1A is nan; give a positive number"),
        ("base", {"P1A": float("inf")}, "weights: the weight of P1A is inf; give a positive number"),
        ("base", {"P1A": -0.5}, "weights: the weight of P1A is -0.5; give a positive number"),
        ("base", {"P1A": 0.5, "P1B": 0.5}, "weights: P1A and P1B are two poles of expertise"),
        ("P1A", {"P2B": 0.5}, "weights: they go with the model `base`"),
        ("P1A+P1B", None, "P1A and P1B are two poles of expertise"),
        ("P1A*0", None, "the weight of P1A is 0"),
        ("P1A+P1A", None, "names P1A twice"),
    ],
)
def test_weights_that_do_not_fit_are_one_sentence(model: str, weights: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        SERVED.requested(model, weights)
    assert not isinstance(raised.value, UnknownModel)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("model", ["", "gpt-4", "P3C", "P1A+P9", "+"])
def test_a_model_that_is_not_served_is_unknown(model: str) -> None:
    with pytest.raises(UnknownModel, match="there is no model"):
        SERVED.requested(model, None)


def test_a_conflict_that_the_registry_declares_is_refused() -> None:
    rival = REGISTRY["P2B"].model_copy(update={"conflicts": ("P1A",)})
    served = Profiles(Registry({**REGISTRY, "P2B": rival}), ["P1A", "P2B"])
    with pytest.raises(InputError, match="P1A and P2B conflict, as the registry declares"):
        served.requested("base", {"P1A": 0.5, "P2B": 0.5})
    assert served.names() == ["base", "P1A", "P2B"]


def test_without_adapters_there_is_the_base_alone() -> None:
    alone = Profiles(REGISTRY, [])
    assert alone.names() == ["base"]
    with pytest.raises(InputError, match="weights: no adapters are served, only the `base`"):
        alone.requested("base", {"P1A": 1.0})
