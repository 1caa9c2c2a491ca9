"""Combined scores by hand: three objectives, samples with some of them."""

from __future__ import annotations

import pytest
import torch

from rayalign.errors import InputError
from rayalign.scoring.combine import combine

SCORES_OB = torch.tensor([[1.0, 4.0, 2.0], [3.0, torch.nan, -1.0], [5.0, 2.0, torch.inf]], dtype=torch.float64)
ACTIVE_OB = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 0]])
WEIGHTS_O = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mean", [3.0, 3.0, 0.5]),
        ("weighted", [(1 + 6 + 5) / 4, (4 + 2) / 2, (2 - 2) / 3]),
        ("min", [1.0, 2.0, -1.0]),
        ("chebyshev", [1.0, 2.0, -2.0]),
    ],
)
def test_each_kind_counts_only_the_active_objectives(kind: str, expected: list[float]) -> None:
    combined_B = combine(SCORES_OB, WEIGHTS_O, ACTIVE_OB, kind=kind)  # type: ignore[arg-type]
    assert combined_B.dtype == torch.float64
    assert combined_B.tolist() == pytest.approx(expected, abs=1e-12)


def test_chebyshev_is_decided_by_the_objective_furthest_from_its_ideal() -> None:
    ideal_O = torch.tensor([2.0, 4.0, 5.0])
    combined_B = combine(SCORES_OB, WEIGHTS_O, ACTIVE_OB, kind="chebyshev", ideal_O=ideal_O)
    # gaps times weights: (1, 2, 0), (-2, -, 3), (0, 10, -)
    assert combined_B.tolist() == [-2.0, -3.0, -10.0]


def test_a_negative_weight_is_a_penalty_and_keeps_the_scale() -> None:
    scores_OB = torch.tensor([[2.0, 2.0], [0.0, 4.0]])
    combined_B = combine(scores_OB, torch.tensor([3.0, -1.0]), torch.ones(2, 2), kind="weighted")
    assert combined_B.tolist() == [1.5, 0.5]


@pytest.mark.parametrize("kind", ["mean", "weighted", "min", "chebyshev"])
def test_without_an_objective_there_is_no_score(kind: str) -> None:
    active_OB = torch.tensor([[1, 0], [1, 0]])
    combined_B = combine(torch.ones(2, 2), torch.ones(2), active_OB, kind=kind)  # type: ignore[arg-type]
    assert combined_B[0] == 1.0
    assert combined_B[1].isnan()


@pytest.mark.parametrize("kind", ["mean", "weighted", "min", "chebyshev"])
def test_masked_scores_pass_no_gradient_and_inputs_stay(kind: str) -> None:
    scores_OB = SCORES_OB.clone().requires_grad_()
    combine(scores_OB, WEIGHTS_O, ACTIVE_OB, kind=kind).sum().backward()  # type: ignore[arg-type]
    assert scores_OB.grad is not None
    assert scores_OB.grad[ACTIVE_OB == 0].tolist() == [0.0, 0.0]
    assert scores_OB.grad.isfinite().all()
    assert torch.equal(scores_OB.detach().nan_to_num(), SCORES_OB.nan_to_num())


def test_scores_of_no_objective_are_refused() -> None:
    with pytest.raises(InputError, match="at least one objective"):
        combine(torch.ones(0, 2), torch.ones(0), torch.ones(0, 2), kind="min")


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="mean, weighted, min, chebyshev"):
        combine(SCORES_OB, WEIGHTS_O, ACTIVE_OB, kind="max")  # type: ignore[arg-type]
