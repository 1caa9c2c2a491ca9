"""Duplicates and leaks, by hand-made rows."""

from __future__ import annotations

import random

import pytest

from rayalign.config import load_registry
from rayalign.data.hygiene import (
    Duplicates,
    LeakReport,
    NearRows,
    leak_report,
    refuse_leaks,
    row_of,
    similarity,
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


def test_similarity_is_that_of_word_triples() -> None:
    # say it a b c: (say it a) (it a b) (a b c), and (say it a) (it a b) (a b d): 2 of 4
    assert similarity(row_of(prompt("p"), "a b c").shingles, row_of(prompt("p"), "A, b: d!").shingles) == 0.5


def test_exact_and_near_duplicates_go_and_the_first_stays() -> None:
    first = example(prompt("p"), LONG, "another answer altogether", LONG.upper() + " !", f"{LONG} eleven")
    kept, removed = without_duplicates([first], near=0.8)
    assert [candidate.text for candidate in kept[0].candidates] == [LONG, "another answer altogether"]
    assert removed == Duplicates(exact=1, near=1, examples=0)


def test_an_example_without_two_answers_left_is_dropped_but_not_one_that_had_one() -> None:
    rows = [example(prompt("p"), LONG), example(prompt("q"), LONG, "quite another answer"), example(prompt("r"), LONG)]
    kept, removed = without_duplicates(rows, near=0.8)
    assert kept == [rows[0]]
    assert removed == Duplicates(exact=2, near=0, examples=2)


def test_the_same_answer_under_two_profiles_is_no_duplicate() -> None:
    registry = load_registry()
    rows = [
        example(under_profile(prompt("p"), registry.profile(name), registry, prompted=False), LONG, "no")
        for name in ("P1A", "P1B")
    ]
    kept, removed = without_duplicates(rows, near=0.8)
    assert kept == rows and removed == Duplicates(0, 0, 0)


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


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 1.0])
def test_the_index_gives_what_a_search_through_all_gives(threshold: float) -> None:
    draw = random.Random(0)
    rows = [row_of(prompt(f"{n}"), " ".join(draw.choices("abc", k=draw.randint(0, 6)))) for n in range(120)]
    index = NearRows(threshold)
    for row in rows[:80]:
        index.add(row)
    counts = set()
    for row in rows[80:]:
        expected = [other for other in rows[:80] if similarity(row.shingles, other.shingles) >= threshold]
        assert list(index.near(row)) == expected
        counts.add(len(expected))
    assert len(counts) > 1


@pytest.mark.parametrize("threshold", [0.0, 1.5, float("nan")])
def test_a_threshold_that_cannot_be_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match="similarity above 0 and at most 1"):
        NearRows(threshold)
