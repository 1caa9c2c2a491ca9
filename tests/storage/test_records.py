from __future__ import annotations

import json
import math
import resource
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from rayalign.errors import InputError
from rayalign.storage.records import (
    Appender,
    atomic_write,
    cut_torn_line,
    decode,
    dumps,
    encode,
    read_jsonl,
    write_jsonl,
)
from rayalign.types import Candidate, Comparison, Example, Group, Message, Prompt, Score, Segment, Trajectory

PROMPT = Prompt(
    "p1", (Message("system", "be kind"), Message("user", 'line\u2028sep\u2029 "é"\r\n\t🦊')), {"family": "ask"}
)
TRAJECTORY = Trajectory(
    "g1", 0, (5, 6, 7), (Segment(0, "template"), Segment(1, "policy", 3)), (-0.1, -1 / 3), "length", "a\u2028b"
)
RECORDS = [
    PROMPT.messages[1],
    PROMPT,
    Candidate("x", "live", None),
    Example(PROMPT, (Candidate("a", score=0.1 + 0.2), Candidate("b", score=5e-324))),
    Comparison(PROMPT, Candidate("a"), Candidate("b"), 1.5, "rubric"),
    TRAJECTORY,
    Score(None, "no verdict"),
    Group("g1", PROMPT, 4, (TRAJECTORY,), (Score(1 / 7),)),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_record_comes_back_equal(record: object, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "x.jsonl", [record, encode(record)])
    assert [decode(type(record), row) for row in read_jsonl(tmp_path / "x.jsonl")] == [record, record]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_is_refused_both_ways(value: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="JSON"):
        dumps(encode(Score(value)))
    (tmp_path / "x.jsonl").write_text('{"value": NaN}\n')
    with pytest.raises(InputError, match=r"x\.jsonl:1"):
        list(read_jsonl(tmp_path / "x.jsonl"))


def test_a_row_may_hold_records(tmp_path: Path) -> None:
    group = Group("NaN", PROMPT, 4, (TRAJECTORY,), (Score(0.1 + 0.2),))
    with closing(Appender(tmp_path / "x.jsonl")) as file:
        file.append({"kind": "scored", "group": group, "scores": group.scores})
        with pytest.raises(InputError, match="JSON"):
            file.append({"group": replace(group, scores=(Score(math.nan),))})
    row = {"kind": "scored", "group": encode(group), "scores": [encode(score) for score in group.scores]}
    assert list(read_jsonl(tmp_path / "x.jsonl")) == [json.loads(dumps(row))]


def test_lines_end_only_at_newline(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes('{"a": "\u2028 \u0085 \x1f"}'.replace("\x1f", "\\u001f").encode() + b"\r\n\n{}")
    assert list(read_jsonl(tmp_path / "x.jsonl")) == [{"a": "\u2028 \u0085 \x1f"}, {}]


def test_growing_file_passes_over_the_unfinished_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a":')
    assert list(read_jsonl(tmp_path / "x.jsonl", growing=True)) == [{"a": 1}]
    with pytest.raises(InputError, match=":2"):
        list(read_jsonl(tmp_path / "x.jsonl"))


def test_wrong_record_is_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "x.jsonl", [{"role": "user", "content": "a"}, {"role": "robot", "content": "a"}])
    _, robot = read_jsonl(tmp_path / "x.jsonl")
    with pytest.raises(InputError, match=r"row 2: not a Message: role"):
        decode(Message, robot, "row 2")
    with pytest.raises(InputError, match="not a Score"):
        decode(Score, 3)


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [{"a": 1}])
    with pytest.raises(InputError):
        write_jsonl(path, [{"a": 2}, {"a": math.nan}])
    assert list(read_jsonl(path)) == [{"a": 1}]
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]


def test_atomic_write_makes_folders_and_keeps_newlines(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a" / "b.txt", ["é\n", "\r\n"])
    assert (tmp_path / "a" / "b.txt").read_bytes() == "é\n\r\n".encode()


def test_torn_line_is_cut_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    first, last = b'{"a": 1}\n', '{"b": "é"}\n'.encode()
    for kept in range(len(last) + 1):
        path.write_bytes(first + last[:kept])
        assert cut_torn_line(path) == (0 < kept < len(last))
        assert path.read_bytes() == (first + last if kept == len(last) else first)
    assert not cut_torn_line(tmp_path / "absent")


@pytest.mark.parametrize("shared", [False, True])
def test_a_row_of_which_only_a_part_has_room_is_taken_back(shared: bool, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with closing(Appender(tmp_path / "x.jsonl", shared=shared)) as file:
        file.append({"row": 1})
        size = (tmp_path / "x.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, limits[1]))
        try:
            with pytest.raises(OSError, match=r"No space left on device: .*x\.jsonl"):
                file.extend([{"row": 2}, {"row": 3}])
            assert (tmp_path / "x.jsonl").stat().st_size == size
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        file.append({"row": 4})
    assert list(read_jsonl(tmp_path / "x.jsonl")) == [{"row": 1}, {"row": 4}]
