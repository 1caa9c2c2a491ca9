from __future__ import annotations

import pytest

from rayalign import evaluation


@pytest.mark.parametrize(
    "name", ["agreement", "cohen_kappa", "fleiss_kappa", "length_controlled", "win_rate", "frontier", "bradley_terry"]
)
def test_the_public_statistics_are_functions_of_evaluation(name: str) -> None:
    assert callable(getattr(evaluation, name))


def test_the_benchmarks_are_modules_of_evaluation() -> None:
    assert callable(evaluation.arena_hard.scores) and callable(evaluation.arena_hard.style_features)
    assert callable(evaluation.mt_bench.pairwise) and callable(evaluation.mt_bench.single)
