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


ROLLBACK = GuardConfig(metric="policy/approx_kl", above=1.0, patience=2, action="rollback")


def test_a_rollback_fires_after_its_patience_and_is_quiet_on_a_good_run() -> None:
    guards = Guards([ROLLBACK])
    assert guards.roll_back
    for number, value in enumerate([0.9, 2.0, 1.0]):
        assert guards.watch(number, {"policy/approx_kl": value}) is None
    assert all(guards.is_good(number) for number in (0, 2))
    assert guards.watch(3, {"policy/approx_kl": 3.0}) is None
    firing = guards.watch(4, {"policy/approx_kl": 3.5})
    assert firing is not None
    assert (firing.number, firing.text) == (4, "iteration 4: policy/approx_kl is 3.5, above 1")
    # it went out of bounds at 3
    assert [guards.is_good(number) for number in (2, 3, 4)] == [True, False, False]


def test_no_checkpoint_is_good_at_whose_end_another_guard_fired() -> None:
    guards = Guards([ROLLBACK, GuardConfig(metric="a/b", above=1.0)])
    guards.watch(0, {"a/b": 0.0})
    guards.watch(1, {"a/b": 2.0})
    guards.watch(2, {"a/b": 0.0})
    assert [guards.is_good(number) for number in (0, 1, 2)] == [True, False, True]


def test_a_stop_comes_before_a_rollback() -> None:
    limits = [ROLLBACK.model_copy(update={"patience": 1}), GuardConfig(metric="a/b", above=1.0, action="stop")]
    with pytest.raises(GuardError, match="a/b is 2, above 1; the run stops here"):
        Guards(limits).watch(0, {"policy/approx_kl": 2.0, "a/b": 2.0})


def test_what_was_reported_before_an_interruption_counts(caplog: pytest.LogCaptureFixture) -> None:
    guards = Guards([ROLLBACK, GuardConfig(metric="a/b", above=1.0)])
    guards.recall([{"step": 5, "metrics": {"a/b": 2.0}}, {"step": 6, "metrics": {"policy/approx_kl": None}}])
    assert not caplog.records
    assert [guards.is_good(number) for number in (4, 5, 6)] == [True, False, False]
    assert guards.watch(7, {"policy/approx_kl": 2.0}) is not None


def test_a_gradient_that_is_not_finite_needs_no_patience() -> None:
    guards = Guards([GuardConfig(metric="learner/grad_norm", above=1e3, patience=9, action="rollback")])
    assert guards.undefined(3, ["critic/grad_norm"], "reason") is None
    firing = guards.undefined(3, ["learner/grad_norm"], "reason")
    assert firing is not None and firing.text == "reason"
    assert guards.is_good(2) and not guards.is_good(3)
