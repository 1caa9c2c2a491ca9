from __future__ import annotations

from pathlib import Path

import pytest

from rayalign.errors import WeightError
from rayalign.weights.probe import Probe, check, load, probe_tokens, save, tolerance

PROBE = Probe(version=3, token_ids=((1, 2, 3), (4, 5)), logprobs=((-1.0, -2.0), (-0.5,)), tolerance=1e-3)


def test_tokens_are_fixed_and_avoid_special_ids() -> None:
    tokens = probe_tokens(4, avoid=(0, 3))
    assert tokens == probe_tokens(4, avoid=(0, 3))
    assert {t for row in tokens for t in row} == {1, 2}


def test_the_largest_gap_is_told() -> None:
    assert check(PROBE, [[-1.0, -2.0005], [-0.5001]]) == pytest.approx(5e-4)


def test_a_gap_beyond_the_tolerance_is_refused() -> None:
    with pytest.raises(WeightError, match=r"version 3.*up to 0\.01,.*discard"):
        check(PROBE, [[-1.0, -2.0], [-0.51]])


def test_not_a_number_is_refused() -> None:
    with pytest.raises(WeightError, match="inf"):
        check(PROBE, [[-1.0, float("nan")], [-0.5]])


def test_a_missing_sequence_is_refused() -> None:
    with pytest.raises(WeightError, match="another shape"):
        check(PROBE, [[-1.0, -2.0]])


def test_the_coarsest_precision_sets_the_tolerance() -> None:
    assert tolerance("fp32") == 1e-3
    assert tolerance("fp32", "bfloat16") == 0.25


def test_a_probe_lies_beside_its_model(tmp_path: Path) -> None:
    save(PROBE, tmp_path)
    assert load(tmp_path) == PROBE


def test_a_missing_probe_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeightError, match="probe.json cannot be read"):
        load(tmp_path)
