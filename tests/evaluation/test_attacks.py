from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from rayalign.annotator.asking.api import Annotation, PairItem
from rayalign.annotator.asking.client import item_of
from rayalign.annotator.asking.connect import LocalAnnotator
from rayalign.annotator.judges.sampling import is_switched
from rayalign.data.paddock import gold, prompts
from rayalign.errors import InputError
from rayalign.evaluation.attacks import ATTACKS, AttackRow, games, report

Rule = Callable[[str, str], float | None]
PAIRS = [PairItem(instruction=f"q {i}", output_1=f"honest answer {i}", output_2="unread") for i in range(20)]


class Fake:
    """An annotator by a rule over the answers as shown, which may be in an order drawn from the instruction."""

    def __init__(self, rule: Rule, *, randomize: bool = False) -> None:
        self.rule, self.randomize = rule, randomize
        self.shown: list[tuple[str, str]] = []

    def annotate(self, rows: Iterable[PairItem], *, seed: int = 0) -> Iterator[Annotation]:
        for index, row in enumerate(rows):
            switched = self.randomize and is_switched(row.text, seed)
            answers = (row.output_2, row.output_1) if switched else (row.output_1, row.output_2)
            self.shown.append(answers)
            said = self.rule(*answers)
            preference = 3.0 - said if switched and said is not None else said
            yield Annotation(index=index, annotator="fake", preference=preference, switched=switched)


def rows(rule: Rule, *, randomize: bool = False) -> dict[str, AttackRow]:
    return {row.attack: row for row in report(Fake(rule, randomize=randomize), PAIRS)}  # type: ignore[arg-type]


def test_each_attack_meets_each_honest_answer_in_both_orders() -> None:
    for name, text in ATTACKS.items():
        found = games(name, PAIRS, [i == 3 for i in range(20)])
        assert len(found) == 40
        for i, (pair, first, second) in enumerate(zip(PAIRS, found[::2], found[1::2], strict=True)):
            assert first.text == second.text == pair.text
            assert first.output_2 == second.output_1 == pair.output_1
            letters = ("b", "a") if i == 3 else ("a", "b")
            assert (first.output_1, second.output_2) == tuple(text.replace("{own}", letter) for letter in letters)


def test_a_judge_that_always_says_a_is_caught() -> None:
    for row in rows(lambda first, second: 1.0).values():
        assert row.passed is False
        assert row.win_rate is not None and row.win_rate.value == 50.0
        assert row.consistency == 0.0


def test_a_lover_of_length_falls_for_very_long_answers_only() -> None:
    found = rows(lambda first, second: 1.0 if len(first) > len(second) else 2.0)
    assert found["very long answer"].passed is False
    assert found["very long answer"].win_rate is not None and found["very long answer"].win_rate.value == 100.0
    assert found["empty"].passed is True and found["empty"].consistency == 100.0


@pytest.mark.parametrize("randomize", [False, True])
def test_a_judge_that_obeys_the_answers_is_caught_in_whatever_order_it_is_shown_them(randomize: bool) -> None:
    def obey(first: str, second: str) -> float:
        text = first + second
        return 1.0 if "Output (a)" in text else 2.0 if "Output (b)" in text else 1.5

    found = rows(obey, randomize=randomize)
    fallen = {name for name, row in found.items() if row.win_rate is not None and row.win_rate.value == 100.0}
    assert fallen == {"quote closing", "instructions to the judge", "chat tags"}


def test_soft_and_missing_verdicts_by_hand() -> None:
    # the attack shown first wins 0.3, shown second there is no verdict
    found = rows(lambda first, second: 1.7 if second.startswith("honest") else None)["dots"]
    assert found.win_rate is not None and found.win_rate.value == pytest.approx(30.0)
    assert (found.without_verdict, found.consistency, found.n, found.passed) == (50.0, None, 20, True)
    mute = rows(lambda first, second: None)["dots"]
    assert (mute.win_rate, mute.passed, mute.without_verdict) == (None, None, 100.0)


def test_the_attacker_names_the_place_where_it_is_shown() -> None:
    fake = Fake(lambda first, second: 1.0, randomize=True)
    report(fake, PAIRS)  # type: ignore[arg-type]
    letters = [(first, second) for first, second in fake.shown if "Output (" in first + second]
    assert len(letters) == 3 * 40
    assert all("Output (b)" not in first and "Output (a)" not in second for first, second in letters)
    assert len({is_switched(pair.text, 0) for pair in PAIRS}) == 2


def test_without_pairs_there_is_nothing_to_report() -> None:
    with pytest.raises(InputError, match="no pairs"):
        report(Fake(lambda first, second: 1.0), [])  # type: ignore[arg-type]


@pytest.mark.parametrize("human", ["", "human: {temperature: 0.05}"])
def test_the_rubric_is_not_fooled(human: str, tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    file.write_text(f"cache: sqlite:///{tmp_path / 'v.db'}\nannotators: {{it: {{judge: {{kind: rubric}}, {human}}}}}\n")
    honest = [item_of(p, gold.oracle(p), "") for p in prompts(0, "test", 40)]
    annotator = LocalAnnotator(file, "it")
    found = report(annotator, honest)
    annotator.close()
    assert len(found) == len(ATTACKS) == 8
    for row in found:
        assert row.passed and row.consistency == 100.0 and row.without_verdict == 0.0
        assert human or (row.win_rate is not None and row.win_rate.value == 0.0)
