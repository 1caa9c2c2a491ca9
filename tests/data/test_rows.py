from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rayalign.data.collate import EncodedRow, collate_examples
from rayalign.data.rows import RowFile, split, write_rows

ROWS = [
    EncodedRow((5, 6, 7), (False, True, True), 0, 1.0, "a", 0.75),
    EncodedRow((5, 8), (False, True), 0, None, "a", 0.75),
    EncodedRow((9, 10, 11, 12), (False, False, False, True), 1, -0.5, "b"),
]


@pytest.fixture
def rows(tmp_path: Path) -> RowFile:
    assert write_rows(tmp_path / "rows", iter(ROWS)) == 3
    return RowFile(tmp_path / "rows")


def test_rows_are_collated_as_if_they_had_been_kept(rows: RowFile) -> None:
    for numbers in ([0, 1, 2], [1], [0, 2]):
        stored, kept = rows.collate(torch.tensor(numbers)), collate_examples([ROWS[i] for i in numbers], 0)
        for name in ("input_ids_BT", "attention_mask_BT", "policy_mask_BT", "group_B", "scores_B"):
            left, right = getattr(stored, name), getattr(kept, name)
            assert left.dtype == right.dtype
            torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)


def test_preferences_are_absent_where_a_row_has_none(rows: RowFile) -> None:
    preferences_B = rows.collate(torch.arange(3)).preferences_B
    assert preferences_B is not None
    assert preferences_B[:2].tolist() == [0.75, 0.75]
    assert preferences_B[2].isnan()


def test_an_answer_is_good_or_bad_or_neither(tmp_path: Path) -> None:
    labels = (0.75, None, 0.0)
    write_rows(tmp_path / "rows", [replace(row, desirable=label) for row, label in zip(ROWS, labels, strict=True)])
    desirable_B = RowFile(tmp_path / "rows").collate(torch.arange(3)).desirable_B
    assert desirable_B is not None
    assert desirable_B.nan_to_num(-1).tolist() == [0.75, -1.0, 0.0]


def test_the_digest_names_the_content(tmp_path: Path, rows: RowFile) -> None:
    write_rows(tmp_path / "same", ROWS)
    write_rows(tmp_path / "other", [*ROWS[:2], replace(ROWS[2], score=0.5)])
    assert RowFile(tmp_path / "same").digest == rows.digest
    assert RowFile(tmp_path / "other").digest != rows.digest


def test_no_rows_are_no_rows(tmp_path: Path) -> None:
    assert write_rows(tmp_path / "none", []) == 0
    assert len(RowFile(tmp_path / "none")) == 0


def pairs(prompts: str) -> list[EncodedRow]:
    """A pair for each letter, which is its prompt."""
    rows: list[EncodedRow] = []
    for group, prompt in enumerate(prompts):
        rows += [EncodedRow((4, 5), (False, True), group, float(k), prompt) for k in range(2)]
    return rows


def letters(prompts: str, numbers_B: torch.Tensor) -> list[str]:
    return [prompts[int(number) // 2] for number in numbers_B]


def test_all_rows_of_a_prompt_go_to_one_side(tmp_path: Path) -> None:
    prompts = "abcdefghabcdefghaabb"
    write_rows(tmp_path / "rows", pairs(prompts))
    rows = RowFile(tmp_path / "rows")
    training, heldout = split(rows, torch.ones(len(rows), dtype=torch.bool), 0.25, 3, singly=False)
    sides = [set(letters(prompts, side.numbers_B)) for side in (training, heldout)]
    assert len(sides[1]) == 2
    assert not sides[0] & sides[1]
    assert len(training) + len(heldout) == len(rows)


def test_the_seed_decides_what_is_held_out(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", pairs("abcdefgh"))
    rows = RowFile(tmp_path / "rows")
    everything = torch.ones(len(rows), dtype=torch.bool)
    first, again, another = (split(rows, everything, 0.25, seed, singly=False)[1] for seed in (0, 0, 1))
    assert first.numbers_B.tolist() == again.numbers_B.tolist() != another.numbers_B.tolist()


def test_units_are_groups_or_single_rows_of_those_that_are_used(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", pairs("abc"))
    rows = RowFile(tmp_path / "rows")
    used = torch.tensor([True, True, False, True, True, True])
    grouped, nothing = split(rows, used, 0.0, 0, singly=False)
    assert grouped.numbers_B.tolist() == [0, 1, 3, 4, 5]
    assert grouped.unit_B.tolist() == [0, 0, 1, 2, 2]
    assert len(nothing) == 0
    assert split(rows, used, 0.0, 0, singly=True)[0].unit_B.tolist() == [0, 1, 3, 4, 5]
