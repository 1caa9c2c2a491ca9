from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayalign.errors import InputError
from rayalign.statistics.agreement import (
    agreement,
    both_orders,
    cohen_kappa,
    cohen_kappa_interval,
    fleiss_kappa,
    fleiss_kappa_interval,
    mode,
)


def test_mode_with_ties_broken_as_published() -> None:
    nan = math.nan
    labels = [[0, 0, 0, 0.5, nan, 0.2], [1, 1, 0, 1, nan, 0.4], [1, 0.5, 0.5, 1, nan, 0.9], [1, nan, 0.5, 0, nan, nan]]
    # majority 1; three labels once each: the smallest; two pairs: the larger; majority 1; nothing; soft: the median
    assert mode(labels).tolist() == pytest.approx([1.0, 0.0, 0.5, 1.0, nan, 0.4], nan_ok=True)


def test_the_published_figures_and_the_symmetric_ones_by_hand() -> None:
    humans = [[1, 1, 2], [1, 2, 2], [1, 2, 1]]
    judge = [[1, 2, 1]]
    found = agreement(judge, humans)
    # modes of all: 1, 2, 2 -> the judge is right on two of three
    assert found.judge.mean == pytest.approx(100 * 2 / 3)
    # each against the mode of the other two, ties to the larger: pair 1 all right; pair 2 (1, 2, 2): the first is
    # wrong, the others see a tie that goes to 2, right; pair 3 (2, 2, 1): against 2, 2, 2: right, right, wrong
    assert found.humans.mean == pytest.approx(100 * (3 + 2 + 2) / 9)
    # the judge (1, 2, 1) against the same modes: 3 of 3, 3 of 3, 0 of 3
    assert found.judge_symmetric.mean == pytest.approx(100 * 6 / 9)
    assert found.gap.mean == pytest.approx(100 * (6 - 7) / 9)
    assert found.bias == pytest.approx(100 / 3)
    assert math.isnan(found.variance)
    assert found.judge.n == 3


def test_bias_and_variance_of_runs_by_hand() -> None:
    found = agreement([[1, 1, 2, 2], [1, 2, 2, 2], [1, 2, 2, 1]], [[1, 1, 1, 2]])
    # mode of the runs 1, 2, 2, 2 against 1, 1, 1, 2; each run against the others' mode, ties to the larger
    assert found.bias == pytest.approx(50.0)
    # pair 2: run 1 says 1 against 2, runs 2 and 3 see the tie as 2; pair 4: run 3 says 1 against 2, likewise
    assert found.variance == pytest.approx(100 * 2 / 12)
    assert found.judge.mean == pytest.approx(100 * (3 + 2 + 1) / 12)
    assert math.isnan(found.humans.mean) and math.isnan(found.gap.mean)


def test_a_tie_is_half_right_and_an_absent_label_is_left_out() -> None:
    found = agreement([[1.5, None, 2, 1]], [[1, 1, 2, None]])
    assert (found.judge.mean, found.judge.n) == (75.0, 2)


def test_a_judge_as_good_as_the_people_is_flattered_by_the_published_figure_alone() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(1, 3, 3000)
    raters = [np.where(rng.random(3000) < 0.75, truth, 3 - truth).tolist() for _ in range(6)]
    found = agreement(raters[:1], raters[1:])
    # the mode of five is right more often than that of four, whose ties are drawn: 0.896 against 0.844
    assert found.judge.mean - found.humans.mean > 1.5
    assert found.gap.low < 0.0 < found.gap.high


def test_people_and_judges_must_label_the_same_pairs() -> None:
    with pytest.raises(InputError, match="labels 1 pairs, people 2"):
        agreement([[1]], [[1, 2]])
    with pytest.raises(InputError, match="at least one human"):
        agreement([[1]], [])
    with pytest.raises(InputError, match="between 1"):
        agreement([[3]], [[1]])


def test_cohens_kappa_by_hand() -> None:
    # 20 a-a, 5 a-b, 10 b-a, 15 b-b: observed 0.7, by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    a = ["a"] * 25 + ["b"] * 25
    b = ["a"] * 20 + ["b"] * 5 + ["a"] * 10 + ["b"] * 15
    assert cohen_kappa(a, b) == pytest.approx(0.4)
    assert cohen_kappa([*a, None, "a"], [*b, "a", None]) == pytest.approx(0.4)
    found = cohen_kappa_interval(a, b)
    # large-sample standard error sqrt(p (1 - p) / n) / (1 - chance) = 0.13
    assert found.low == pytest.approx(0.4 - 1.96 * 0.13, abs=0.06)
    assert found.high == pytest.approx(0.4 + 1.96 * 0.13, abs=0.06)
    assert found.n == 50
    wide = cohen_kappa_interval(a * 3, b * 3, list(range(50)) * 3)
    assert wide == pytest.approx(found, abs=0.03)
    assert math.isnan(cohen_kappa([1, 1], [1, 1]))
    with pytest.raises(InputError, match="2 labels against 1"):
        cohen_kappa([1, 2], [1])
    with pytest.raises(InputError, match="no case"):
        cohen_kappa([None], [1])


def test_fleiss_kappa_by_hand() -> None:
    # Fleiss (1971): mean agreement within cases 7/9; shares 7/12 and 5/12, chance 74/144
    counts = [[3, 0], [1, 2], [3, 0], [0, 3]]
    expected = ((1 + 1 / 3 + 1 + 1) / 4 - 74 / 144) / (1 - 74 / 144)
    assert fleiss_kappa(counts) == pytest.approx(expected)
    found = fleiss_kappa_interval(counts * 25)
    assert found.low < expected < found.high and found.n == 100
    assert math.isnan(fleiss_kappa([[2, 0], [2, 0]]))
    for wrong in ([[1, 0]], [[2, 0], [1, 2]], [], [[2, -1], [1, 0]]):
        with pytest.raises(InputError, match="same two or more raters"):
            fleiss_kappa(wrong)


def test_both_orders_by_hand() -> None:
    # the second pair goes to whichever is shown first, the third to the second answer twice; the fifth has one order
    found = both_orders([1, 1, 2, 1.5, 1], [1, 2, 2, 1.5, None])
    assert (found.consistent.mean, found.consistent.n) == (75.0, 4)
    assert found.prefers_first.mean == pytest.approx(100 * (0.5 + 1.0 + 0.5 + 0.5) / 4)
    assert found.kappa == pytest.approx((0.75 - 5 / 16) / (1 - 5 / 16))
    assert both_orders([1.0, 1.2], [2.0, 1.8]).prefers_first.mean == pytest.approx(90.0)


@pytest.mark.parametrize("judge", ["GPT-4_Vanilla", "ChatGPT_Vanilla", "ChatGPT_Swap"])
def test_llmbars_published_statistics(test_data: Path, judge: str) -> None:
    home = test_data / "llmbar"
    published = json.loads((home / f"LLMBar_Natural.{judge}.statistics.json").read_text())
    with gzip.open(home / f"LLMBar_Natural.{judge}.result.json.gz", "rt", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = json.load(file)
    labels = [float(row["label"]) for row in rows]
    forward, swapped = (
        [float(row["results"][-1][f"swap = {swap}"]["winner"]) for row in rows] for swap in (False, True)
    )
    right = [agreement([verdicts], [labels]).judge.mean for verdicts in (forward, swapped)]
    found = both_orders(forward, swapped)
    both = [a if a == b else None for a, b in zip(forward, swapped, strict=True)]

    def percent(name: str) -> float:
        return float(published[name].rpartition("= ")[2].rstrip("%"))

    assert right == pytest.approx([percent("correct_False"), percent("correct_True")])
    assert np.mean(right) == pytest.approx(percent("correct_average"))
    assert found.consistent.mean == pytest.approx(percent("equal"))
    agreed = agreement([both], [labels]).judge
    assert agreed.mean * agreed.n / len(rows) == pytest.approx(percent("correct_both"))
    assert found.kappa == pytest.approx(published["kappa_agreement"], abs=1e-9)
    # the published kappas with the label count a verdict for the second answer as 0, which no label is
    miscounted = [cohen_kappa([1 if v == 1 else 0 for v in side], labels) for side in (forward, swapped)]
    assert miscounted == pytest.approx([published["kappa_False"], published["kappa_True"]], abs=1e-9)
    assert np.mean(miscounted) == pytest.approx(published["kappa_average"], abs=1e-9)
    assert min(cohen_kappa(forward, labels), cohen_kappa(swapped, labels)) > 2 * max(miscounted)


def test_pandalms_published_kappas() -> None:
    """Annotators 1-2, 1-3, 2-3 on its 999 rows, here as how many have which three labels (data/testset-v1.json)."""
    told = {
        "000": 85, "001": 2, "002": 2, "020": 4, "022": 4, "100": 5, "101": 11, "110": 10, "111": 368, "112": 10,
        "121": 12, "122": 11, "200": 7, "202": 4, "211": 11, "212": 18, "220": 2, "221": 7, "222": 426,
    }  # fmt: skip
    first, second, third = ([labels[i] for labels, n in told.items() for _ in range(n)] for i in range(3))
    assert len(first) == 999
    kappas = [cohen_kappa(first, second), cohen_kappa(first, third), cohen_kappa(second, third)]
    assert [f"{kappa:.2f}" for kappa in kappas] == ["0.85", "0.88", "0.86"]


def test_pandalms_rows(test_data: Path) -> None:
    """712 of its 999 rows, whose kappas are published nowhere but near those of all."""
    home = test_data / "pandalm"

    def column(file: str, name: str) -> list[Any]:
        with gzip.open(home / f"{file}testset-v1.json.gz", "rt", encoding="utf-8") as source:
            return [row[name] for row in json.load(source)]

    humans = [column("", f"annotator{i}") for i in (1, 2, 3)]
    kappas = [cohen_kappa(humans[i], humans[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert kappas == pytest.approx([0.85, 0.88, 0.86], abs=0.025)
    assert kappas == pytest.approx([0.836762, 0.857323, 0.852242], abs=1e-6)
    counts = [[sum(h[i] == label for h in humans) for label in (0, 1, 2)] for i in range(712)]
    assert fleiss_kappa(counts) == pytest.approx(np.mean(kappas), abs=1e-3)
    names = {"1": 1.0, "2": 2.0, "0": 1.5, "Tie": 1.5}
    chat = [names.get(str(v)) for v in column("gpt-3.5-turbo-", "gpt_result")]
    panda = [names.get(str(v)) for v in column("pandalm-7b-", "pandalm_result")]
    prompts = column("", "instruction")
    for judge, closeness in ((chat, 78.88), (panda, 74.93)):
        found = agreement([judge], humans, prompts)
        assert found.judge.mean == pytest.approx(closeness, abs=0.01)
        assert found.humans.mean == pytest.approx(92.91, abs=0.01)
        assert found.gap.high < -10.0
