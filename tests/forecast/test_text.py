from __future__ import annotations

import pytest

from rayalign.forecast.text import duration, number, span
from rayalign.forecast.timing import Span


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0004, "0.01"), (0.123, "0.12"), (1.26, "1.3"), (9.96, "10"), (12.4, "12"), (497.0, "500"), (12345.0, "12000")],
)
def test_a_number_has_two_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


def test_a_range_has_its_unit() -> None:
    assert span(Span(1.0, 2.0, 3.0), "s") == "1 to 3 s"


@pytest.mark.parametrize(("high", "text"), [(100.0, "60 to 100 s"), (600.0, "1 to 10 min"), (36000.0, "0.017 to 10 h")])
def test_a_time_has_the_unit_of_its_end(high: float, text: str) -> None:
    assert duration(Span(60.0, 61.0, high)) == text
