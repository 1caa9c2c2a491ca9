from __future__ import annotations

import torch

from rayalign.models.lines import Block, Line, lay_out, plan_blocks


def test_rows_of_one_prompt_make_a_block_where_that_costs_less() -> None:
    ids_BT = torch.tensor([[1, 2, 3, 4, 9], [1, 2, 3, 5, 0], [7, 2, 3, 5, 0]])
    lengths_B, prompts_B = torch.tensor([5, 4, 4]), torch.tensor([3, 3, 3])
    assert plan_blocks(ids_BT, lengths_B, prompts_B, hidden=64) == [Block((0, 1), 3, 6), Block((2,), 4, 4)]


def test_a_short_prompt_before_long_answers_is_read_again() -> None:
    ids_BT = torch.zeros(2, 400, dtype=torch.long)
    blocks = plan_blocks(ids_BT, torch.tensor([400, 400]), torch.tensor([2, 2]), hidden=64)
    assert blocks == [Block((0,), 400, 400), Block((1,), 400, 400)]


def test_many_rows_make_several_blocks() -> None:
    ids_BT = torch.zeros(16, 96, dtype=torch.long)
    blocks = plan_blocks(ids_BT, torch.full((16,), 96), torch.full((16,), 48), hidden=128)
    assert {len(block.rows) for block in blocks} == {4}  # 16 rows in one block would attend over 816 positions


def test_each_row_sees_the_prompt_and_itself() -> None:
    ids_BT = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 0], [8, 9, 0, 0]])
    layout = lay_out([Line((Block((0, 1), 2, 5),)), Line((Block((2,), 2, 2),))], ids_BT, torch.tensor([4, 3, 2]))
    assert layout.input_ids_LS.tolist() == [[1, 2, 3, 4, 5], [8, 9, 0, 0, 0]]
    assert layout.positions_LS.tolist() == [[0, 1, 2, 3, 2], [0, 1, 0, 0, 0]]
    assert layout.place_BT.tolist() == [[0, 1, 2, 3], [0, 1, 4, 0], [5, 6, 0, 0]]
    assert layout.mask_L1SS[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    padding_SS = layout.mask_L1SS[1, 0, 2:]
    assert padding_SS.int().tolist() == [[0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]


def test_blocks_of_a_line_do_not_see_each_other() -> None:
    ids_BT = torch.tensor([[1, 2, 3], [1, 2, 4], [8, 9, 0]])
    line = Line((Block((2,), 2, 2), Block((0, 1), 2, 4)))
    layout = lay_out([line], ids_BT, torch.tensor([3, 3, 2]))
    assert layout.input_ids_LS.tolist() == [[8, 9, 1, 2, 3, 4]]
    assert layout.positions_LS.tolist() == [[0, 1, 0, 1, 2, 2]]
    assert layout.place_BT.tolist() == [[0, 1, 0], [2, 3, 4], [2, 3, 5]]  # rows 2, 0 and 1
    assert layout.mask_L1SS[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 1, 1, 0, 1],
    ]
