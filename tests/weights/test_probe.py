from __future__ import annotations

from pathlib import Path

import pytest

from rayalign.errors import WeightError
from rayalign.weights.probe import Bound, Probe, check, data_tokens, load, probe_tokens, save, tolerance

PROBE = Probe(version=3, token_ids=((1, 2, 3), (4, 5)), logprobs=((-1.0, -2.0), (-0.5,)), tolerance=1e-3)


def test_tokens_are_fixed_and_avoid_special_ids() -> None:
    tokens = probe_tokens(4, avoid=(0, 3))
    assert tokens == probe_tokens(4, avoid=(0, 3))
    assert {t for row in tokens for t in row} == {1, 2}


def test_data_tokens_are_the_ends_of_rows_with_at_least_two() -> None:
    rows = [[1, 2, 3, 4], [5], [6, 7], [8, 9]]
    assert data_tokens(rows, count=2, longest=3) == ((2, 3, 4), (6, 7))


def test_the_gap_is_a_root_mean_square() -> None:
    # differences 0, 6e-4 and 6e-4 over three tokens
    assert check(PROBE, [[-1.0, -2.0006], [-0.5006]]) == pytest.approx(6e-4 * (2 / 3) ** 0.5)


def test_one_outlier_among_many_tokens_is_no_deviation() -> None:
    """A maximum of 0.32 nats over 25 tokens of bf16 was reported for a healthy model."""
    probe = Probe(0, (tuple(range(26)),), ((-1.0,) * 25,), tolerance("bf16"))
    assert check(probe, [[-1.32] + [-1.01] * 24]) < 0.07


def test_a_gap_beyond_the_tolerance_is_refused() -> None:
    with pytest.raises(WeightError, match=r"version 3.*0\.00577 nats.*stale, mixed or cast"):
        check(PROBE, [[-1.0, -2.0], [-0.51]])


def test_the_first_gap_calibrates_the_bound() -> None:
    bound = Bound("fp32", "bfloat16")
    assert bound.value == 0.15
    bound.observe(0.03)
    assert bound.value == pytest.approx(0.12)
    bound.observe(0.001)
    assert bound.value == pytest.approx(0.12)


@pytest.mark.parametrize(("first_gap", "value"), [(1e-6, 0.02), (0.1, 0.15)])
def test_the_bound_stays_between_rounding_and_what_no_healthy_pair_reaches(first_gap: float, value: float) -> None:
    bound = Bound("bf16")
    bound.observe(first_gap)
    assert bound.value == value


def test_not_a_number_is_refused() -> None:
    with pytest.raises(WeightError, match="inf"):
        check(PROBE, [[-1.0, float("nan")], [-0.5]])


def test_a_missing_sequence_is_refused() -> None:
    with pytest.raises(WeightError, match="another shape"):
        check(PROBE, [[-1.0, -2.0]])


def test_the_coarsest_precision_sets_the_tolerance() -> None:
    assert tolerance("fp32") == 1e-3
    assert tolerance("fp32", "bfloat16") == 0.15


def test_a_probe_lies_beside_its_model(tmp_path: Path) -> None:
    save(PROBE, tmp_path)
    assert load(tmp_path) == PROBE


def test_a_missing_probe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightError, match="probe.json cannot be read"):
        load(tmp_path)
