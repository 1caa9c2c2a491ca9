from __future__ import annotations

import pytest

from rayalign.models.lines import Block, Line, rows_of
from rayalign.models.packing import end_to_end, in_buckets, in_one_reading, in_readings, work


def alone(*lengths: int) -> list[Block]:
    return [Block((row,), length, length) for row, length in enumerate(lengths)]


def padding(readings: list[list[Line]]) -> float:
    read = sum(len(lines) * max(line.length for line in lines) for lines in readings)
    return 1 - sum(line.length for lines in readings for line in lines) / read


def test_the_longest_block_comes_first_into_the_line_that_it_fills_best() -> None:
    lines = end_to_end(alone(3, 6, 7, 2), width=10)
    assert [[block.length for block in line.blocks] for line in lines] == [[7, 3], [6, 2]]


def test_rows_by_themselves_are_read_apart_from_those_of_a_prompt() -> None:
    blocks = [Block((0,), 8, 8), Block((1, 2), 4, 8), Block((3,), 8, 8)]
    assert [rows_of(lines) for lines in in_buckets(blocks, 64)] == [[0, 3], [1, 2]]


def test_work_is_the_start_of_each_reading_and_its_positions() -> None:
    # a start of 2 tokens and two lines of 3 in width 10: 6 x 10 x 2 + 2, and twice 6 x 10 x 3 + 9 / 2 without a mask
    plain = [Line((block,)) for block in alone(3, 2)]
    assert work([plain], 10, 2) == pytest.approx(122 + 2 * 184.5)
    masked = [Line((Block((0, 1), 1, 3),)), Line((Block((2,), 2, 2),))]
    assert work([masked], 10, 2) == pytest.approx(122 + 2 * 189)


def test_short_rows_are_laid_end_to_end_in_one_reading() -> None:
    blocks = alone(*range(10, 50, 2))
    apart, packed = in_readings(blocks, 64, 64, packs=False), in_readings(blocks, 64, 64, packs=True)
    assert len(apart) > 3
    assert len(packed) < len(apart)
    assert padding(packed) < 0.05
    assert sorted(rows_of([line for lines in packed for line in lines])) == list(range(20))


def test_a_long_row_keeps_a_line_without_a_mask() -> None:
    *packed, last = in_readings(alone(400, 20, 20, 20, 30), 64, 64, packs=True)
    assert [line.blocks for line in last] == [(Block((0,), 400, 400),)]
    assert sorted(rows_of([line for lines in packed for line in lines])) == [1, 2, 3, 4]


def test_rows_of_one_length_are_one_reading_without_a_mask() -> None:
    (lines,) = in_readings(alone(60, 60, 60, 60), 64, 64, packs=True)
    assert all(line.is_plain for line in lines)


def test_one_reading_holds_everything() -> None:
    lines = in_one_reading(alone(40, 9, 30, 11), 64, packs=True)
    assert [line.length for line in lines] == [40, 41, 9] or padding([lines]) < 0.3
    assert sorted(rows_of(lines)) == [0, 1, 2, 3]
    assert all(line.is_plain for line in in_one_reading(alone(40, 9), 64, packs=False))
