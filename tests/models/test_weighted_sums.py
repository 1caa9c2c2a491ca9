from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rayalign.errors import InputError
from rayalign.models.merge import merge_lora, merge_tensors

A_1, B_1 = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [3.0]])
A_2, B_2 = torch.tensor([[0.0, 4.0]]), torch.tensor([[2.0], [0.0]])


def test_a_weighted_sum_by_hand() -> None:
    tensors = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, -4.0]), torch.tensor([8.0, 8.0])]
    assert merge_tensors(tensors, [0.5, 2.0, -0.25]).tolist() == [4.5, -9.0]
    assert [tensor.tolist() for tensor in tensors] == [[1.0, 2.0], [3.0, -4.0], [8.0, 8.0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_type_stays(dtype: torch.dtype) -> None:
    one = torch.ones(3, dtype=dtype)
    assert merge_tensors([one, one], [0.5, 1.5]).dtype == dtype
    assert merge_lora([(one[None], one[:, None])], [2.0], alpha=1.0, mode="delta").dtype == dtype


def test_float64_is_summed_in_float64() -> None:
    fine = torch.tensor([1.0 + 2.0**-50], dtype=torch.float64)
    assert merge_tensors([fine, fine], [0.5, 0.5]).item() == 1.0 + 2.0**-50


def test_sixteen_bits_are_summed_in_float32() -> None:
    """256 + 1 + 1 is 256 where bfloat16 sums, since it has no 257."""
    tensors = [torch.tensor([x], dtype=torch.bfloat16) for x in (256.0, 1.0, 1.0)]
    assert merge_tensors(tensors, [1.0, 1.0, 1.0]).item() == 258.0


def test_whole_numbers_are_copied_where_they_agree() -> None:
    positions = torch.arange(4)
    merged = merge_tensors([positions, positions.clone()], [0.3, 0.3])
    assert torch.equal(merged, positions) and merged.data_ptr() != positions.data_ptr()
    with pytest.raises(InputError, match="have no average"):
        merge_tensors([positions, positions + 1], [0.5, 0.5])


def test_delta_sums_the_products() -> None:
    """0.5 * 2 * [[1, 2], [3, 6]] - 1 * 2 * [[0, 8], [0, 0]]."""
    delta = merge_lora([(A_1, B_1), (A_2, B_2)], [0.5, -1.0], alpha=2.0, mode="delta")
    assert delta.tolist() == [[1.0, -14.0], [3.0, 6.0]]


def test_factor_multiplies_the_sums() -> None:
    """A = [0.5, -3], B = [-1.5, 1.5], times alpha / rank = 2."""
    delta = merge_lora([(A_1, B_1), (A_2, B_2)], [0.5, -1.0], alpha=2.0, mode="factor")
    assert delta.tolist() == [[-1.5, 9.0], [1.5, -9.0]]


def test_delta_scales_each_adapter_by_its_own_rank() -> None:
    wide = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    factors = [(wide, wide), (A_2, B_2)]
    assert merge_lora(factors, [1.0, 1.0], alpha=4.0, mode="delta").tolist() == [[2.0, 32.0], [0.0, 2.0]]
    with pytest.raises(InputError, match="cannot be merged"):
        merge_lora(factors, [1.0, 1.0], alpha=4.0, mode="factor")


@pytest.mark.parametrize(
    ("tensors", "weights", "message"),
    [
        ([], [], "nothing to merge"),
        ([A_1], [1.0, 2.0], "2 weights do not fit 1 inputs"),
        ([A_1], [float("nan")], "not a finite number"),
        ([A_1], [float("inf")], "not a finite number"),
        ([A_1, B_1], [1.0, 1.0], r"\(1, 2\) and \(2, 1\)"),
    ],
)
def test_bad_input_is_one_sentence(tensors: list[Tensor], weights: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        merge_tensors(tensors, weights)


def test_factors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"A is \[rank, inputs\]"):
        merge_lora([(A_1, torch.ones(2, 3))], [1.0], alpha=1.0, mode="delta")
    with pytest.raises(InputError, match="use delta or factor"):
        merge_lora([(A_1, B_1)], [1.0], alpha=1.0, mode="cat")  # type: ignore[arg-type]
