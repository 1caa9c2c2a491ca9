from __future__ import annotations

import logging
import math

import pytest

from rayalign.config import GuardConfig
from rayalign.coordinator.guards import Guards
from rayalign.errors import GuardError


def test_stops_beyond_the_limit_and_names_metric_value_and_limit() -> None:
    guards = Guards([GuardConfig(metric="kl/reference", above=5.0, action="stop")])
    guards.watch(0, {"kl/reference": 5.0})
    with pytest.raises(GuardError, match=r"iteration 1: kl/reference is 5\.25, above 5;"):
        guards.watch(1, {"kl/reference": 5.25})


def test_patience_counts_iterations_in_a_row() -> None:
    guards = Guards([GuardConfig(metric="policy/entropy", below=0.5, patience=2, action="stop")])
    for iteration, entropy in enumerate([0.4, 0.6, 0.4]):
        guards.watch(iteration, {"policy/entropy": entropy})
    guards.watch(3, {})  # an iteration that does not tell the metric breaks the row
    guards.watch(4, {"policy/entropy": 0.4})
    with pytest.raises(GuardError, match="iteration 5"):
        guards.watch(5, {"policy/entropy": 0.4})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_trips_any_limit(value: float) -> None:
    with pytest.raises(GuardError):
        Guards([GuardConfig(metric="loss/policy", above=1e9, action="stop")]).watch(0, {"loss/policy": value})


def test_a_warning_names_the_metric_and_lets_the_run_go_on(caplog: pytest.LogCaptureFixture) -> None:
    guards = Guards([GuardConfig(metric="a/b", above=1.0), GuardConfig(metric="c/d", below=0.0, above=1.0)])
    with caplog.at_level(logging.WARNING):
        guards.watch(7, {"a/b": 2.0, "c/d": 0.5})
    assert [record.getMessage() for record in caplog.records] == ["iteration 7: a/b is 2, above 1"]
