from __future__ import annotations

import math
import random

import numpy as np
import pytest

from rayalign.statistics.agreement import cohen_kappa_interval
from rayalign.statistics.kappa_matrix import ABSENT, kappa_matrix


@pytest.mark.parametrize("clusters", [60, 15])
def test_each_cell_is_that_of_two_raters_alone(clusters: int) -> None:
    rng = random.Random(clusters)
    names = [f"prompt {case % clusters}" for case in range(60)]
    labels = np.array([[rng.randrange(3) for _ in range(60)] for _ in range(4)], np.int8)
    labels[1, :40] = labels[0, :40]
    cells = list(kappa_matrix(labels, names))
    assert [(cell.a, cell.b) for cell in cells] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    for cell in cells:
        alone = cohen_kappa_interval(labels[cell.a].tolist(), labels[cell.b].tolist(), names)
        assert cell.interval == pytest.approx(alone, abs=1e-9)
        assert cell.agreement == pytest.approx(np.mean(labels[cell.a] == labels[cell.b]))


def test_only_shared_cases_count() -> None:
    both = np.array([[0, 0, 1, 1, ABSENT, 2], [0, 1, 1, 0, 2, ABSENT]], np.int8)
    (cell,) = kappa_matrix(both, range(6))
    # of four cases two are equal, and both raters are even: chance is a half
    assert (cell.n, cell.agreement, cell.interval.mean, cell.interval.n) == (4, 0.5, 0.0, 4)
    assert math.isnan(cell.interval.low), "four clusters are too few for an interval"


def test_raters_who_share_nothing_or_say_one_thing_have_no_kappa() -> None:
    apart = np.array([[0, ABSENT], [ABSENT, 0]], np.int8)
    (cell,) = kappa_matrix(apart, range(2))
    assert cell.n == 0 and math.isnan(cell.agreement) and math.isnan(cell.interval.mean)
    (cell,) = kappa_matrix(np.zeros((2, 20), np.int8), range(20))
    assert cell.agreement == 1.0 and math.isnan(cell.interval.mean)


def test_a_single_rater_has_no_cell() -> None:
    assert list(kappa_matrix(np.zeros((1, 5), np.int8), range(5))) == []
    assert list(kappa_matrix(np.zeros((3, 0), np.int8), [])) == []
