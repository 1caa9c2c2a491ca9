from __future__ import annotations

import math

import pytest

from rayalign.statistics.ranks import rank_correlation


def test_by_hand() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 90]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    # ranks 0 1 2 3 and 1 0 2 3: 1 - 6 * 2 / (4 * 15)
    assert rank_correlation([1, 2, 3, 4], [5, 4, 6, 7]) == pytest.approx(0.8)
    # ranks 0 1.5 1.5 3 and 0 1 2 3
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_nothing_to_correlate() -> None:
    assert math.isnan(rank_correlation([1], [2]))
    assert math.isnan(rank_correlation([1, 1], [2, 3]))
