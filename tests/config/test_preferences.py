"""Preferences by id: nothing matches by substring, conflicts and unknown ids are refused, users add their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayalign.config import PreferenceUse, load_registry
from rayalign.errors import InputError

REGISTRY = load_registry()


def test_three_dimensions_with_their_poles() -> None:
    assert {d: REGISTRY.poles(d) for d in REGISTRY.dimensions} == {
        "expertise": ("P1A", "P1B"),
        "informativeness": ("P2A", "P2B"),
        "style": ("P3A", "P3B"),
    }
    assert REGISTRY.poles("style", extra=True) == ("P3A", "P3B", "P3C", "P3D")
    assert all(len(set(preference.wordings)) >= 3 for preference in REGISTRY.values())


def test_all_profiles_are_eight_and_with_the_extra_styles_sixteen() -> None:
    eight, sixteen = REGISTRY.combinations(), REGISTRY.combinations(extra=True)
    assert len(set(eight)) == 8 and len(set(sixteen)) == 16 and set(eight) < set(sixteen)
    assert str(eight[0]) == "P1A+P2A+P3A" and str(sixteen[-1]) == "P1B+P2B+P3D"
    assert [str(profile) for profile in REGISTRY.singles()] == ["P1A", "P1B", "P2A", "P2B", "P3A", "P3B"]


@pytest.mark.parametrize(
    "weights", ["P2B*0.5+P1A", {"P2B": 0.5, "P1A": 1}, ["P1A", "P2B*0.5"], "P1A + P2B * 0.50"], ids=str
)
def test_a_profile_has_one_name_however_it_is_written(weights: object) -> None:
    profile = REGISTRY.profile(weights)  # type: ignore[arg-type]
    assert str(profile) == "P1A+P2B*0.5"
    assert profile.ids == ("P1A", "P2B") and dict(profile) == {"P1A": 1.0, "P2B": 0.5}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("P1", "there is no preference 'P1'; did you mean"),
        ("P1A+P2C", "there is no preference 'P2C'"),
        ("friendly", "there is no preference 'friendly'"),
        (REGISTRY["P1A"].wordings[0], "there is no preference"),
        ("P1A+P1B", "two poles of expertise"),
        ("P1A+P1A", "names P1A twice"),
        ("P1A*0", "weight of P1A is 0; give a positive number"),
        ("P1A*nan", "weight of P1A is nan"),
        ("P1A*much", "'P1A\\*much' is no preference with a weight"),
        ("", "names no preference"),
    ],
)
def test_what_is_no_profile_is_refused(weights: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        REGISTRY.profile(weights)


def test_users_add_preferences_and_declare_conflicts(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "P4A: {dimension: form, pole: list, wordings: [As a list.], criterion: which is a list, conflicts: [P2A]}\n"
        "P2A: {dimension: informativeness, pole: terse, wordings: [Be terse.], criterion: which is terser}\n"
    )
    registry = load_registry(file)
    assert registry["P2A"].pole == "terse" and list(registry)[-1] == "P4A"
    assert str(registry.profile({"P4A": 2, "P1A": 1})) == "P1A+P4A*2"
    with pytest.raises(InputError, match="P2A and P4A conflict"):
        registry.profile("P2A+P4A")
    assert [str(profile) for profile in registry.combinations()] == [
        f"{first}+P2B+{last}+P4A" for first in ("P1A", "P1B") for last in ("P3A", "P3B")
    ]


def test_a_further_pole_of_a_dimension_changes_no_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("P1C: {dimension: expertise, pole: lay, wordings: [For all.], criterion: which all understand}\n")
    registry = load_registry(file)
    for profile in registry.combinations():
        assert registry.profile(str(profile)) == profile
        assert str(registry.profile(profile.ids)) == str(profile)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("P9: {dimension: x, pole: y, wordings: [], criterion: z}", "P9: wordings is \\[\\]; expected at least 1"),
        ("P9: {dimension: x, pole: y, wordings: [w], criterion: z, tone: warm}", "P9: tone is not known"),
        ("P9: {dimension: x, pole: y, wordings: [w], criterion: z, conflicts: [P9B]}", "conflicts names 'P9B'"),
        ("'P1A+P2A': {dimension: x, pole: y, wordings: [w], criterion: z}", "is no id"),
        ("[P1A]", "no mapping of ids"),
    ],
)
def test_a_wrong_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_registry(file)


def test_the_profiles_of_a_job() -> None:
    assert len(PreferenceUse().read_profiles()) == 8
    assert len(PreferenceUse(extra=True).read_profiles()) == 16
    assert len(PreferenceUse(profiles="single").read_profiles()) == 6
    own = PreferenceUse.model_validate({"profiles": [{"P1A": 1, "P2B": 0.5}, "P3A", ["P1B", "P2A"]]})
    assert [str(profile) for profile in own.read_profiles()] == ["P1A+P2B*0.5", "P3A", "P1B+P2A"]
    assert hash(own) == hash(PreferenceUse.model_validate(own.model_dump(mode="json")))
    with pytest.raises(InputError, match="comes twice"):
        PreferenceUse(profiles=("P1A+P2A", "P2A+P1A")).read_profiles()
