"""Duplicates and leaks, by hand-made rows."""

from __future__ import annotations

import pytest

from rayalign.config import load_registry
from rayalign.data.hygiene import (
    Duplicates,
    LeakReport,
    leak_report,
    refuse_leaks,
    without_duplicates,
)
from rayalign.data.preferences import under_profile
from rayalign.errors import InputError
from rayalign.types import Candidate, Example, Message, Prompt

LONG = "one two three four five six seven eight nine ten"


def prompt(name: str, text: str = "say it") -> Prompt:
    return Prompt(name, (Message("user", text),))


def example(asked: Prompt, *answers: str) -> Example:
    return Example(asked, tuple(Candidate(answer) for answer in answers))


def test_the_same_and_nearly_the_same_pair_goes_and_the_first_stays() -> None:
    rows = [
        example(prompt("p"), LONG, "no"),
        example(prompt("q"), LONG.upper() + " !", "No."),
        example(prompt("r"), f"{LONG} eleven", "no"),
    ]
    kept, removed = without_duplicates(rows, near=0.8)
    assert kept == rows[:1]
    assert removed == Duplicates(exact=1, near=1)


def test_pairs_that_share_an_answer_are_no_duplicates() -> None:
    asked = prompt("p", " ".join(f"word{number}" for number in range(60)))
    rows = [example(asked, "yes", "no"), example(asked, "yes", "perhaps"), example(asked, "no", "perhaps")]
    assert without_duplicates(rows, near=0.9) == (rows, Duplicates(0, 0))


def test_a_verdict_the_other_way_round_is_no_duplicate() -> None:
    rows = [example(prompt("p"), "yes", "no"), example(prompt("p"), "no", "yes")]
    assert without_duplicates(rows, near=0.9) == (rows, Duplicates(0, 0))


def test_the_same_answer_under_two_profiles_is_no_duplicate() -> None:
    registry = load_registry()
    rows = [
        example(under_profile(prompt("p"), registry.profile(name), registry, prompted=False), LONG, "no")
        for name in ("P1A", "P1B")
    ]
    kept, removed = without_duplicates(rows, near=0.8)
    assert kept == rows and removed == Duplicates(0, 0)


def test_a_split_by_prompt_without_duplicates_does_not_leak() -> None:
    report = leak_report([example(prompt("p"), LONG, "no")], [example(prompt("q"), "something else")], near=0.8)
    assert report == LeakReport(prompts=0, exact=0, near=0, rows=1)
    refuse_leaks(report)


def test_a_leaked_split_is_reported_and_refused() -> None:
    registry = load_registry()
    (plain, sharp) = (under_profile(prompt("p", "why ?"), registry.profile(name), registry) for name in ("P1A", "P3B"))
    training = [example(plain, "because"), example(prompt("q"), LONG)]
    heldout = [example(sharp, "so"), example(prompt("r"), LONG), example(prompt("s"), f"{LONG} eleven")]
    report = leak_report(training, heldout, near=0.8)
    assert report == LeakReport(prompts=1, exact=1, near=1, rows=3)
    with pytest.raises(InputError, match="1 prompts are on both sides, 1 of 3 answers .* and 1 nearly so"):
        refuse_leaks(report)


def test_dialogues_with_the_same_last_turn_are_no_duplicates() -> None:
    def dialogue(name: str, opening: str) -> Prompt:
        turns = (Message("user", opening), Message("assistant", "shall i ?"), Message("user", "yes , please ."))
        return Prompt(name, turns)

    rows = [example(dialogue("p", "lend me a ladder"), "here", "no"), example(dialogue("q", LONG), "here", "no")]
    assert without_duplicates(rows, near=0.8) == (rows, Duplicates(0, 0))
