"""Rows are read by what a file holds, whatever its name; what cannot be read is refused with its place."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest

from rayalign.config import DataConfig
from rayalign.data.files import rows
from rayalign.data.readers import load_examples
from rayalign.data.row_files import file_rows
from rayalign.errors import InputError

TWO = [{"prompt": "a"}, {"prompt": "b"}]
BOM = b"\xef\xbb\xbf"


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.json", b'{"prompt":"a"}\n{"prompt":"b"}\n'),
        ("array.jsonl", b'[{"prompt":"a"},{"prompt":"b"}]'),
        ("pretty.jsonl", b'\n[\n {"prompt":"a"},\n {"prompt":"b"}\n]'),
        ("spread.json", b'{\n "prompt": "a"\n}\n{\n "prompt": "b"\n}\n'),
        ("bom.jsonl", BOM + b'{"prompt":"a"}\n{"prompt":"b"}'),
        ("bom.json", BOM + b'[{"prompt":"a"},{"prompt":"b"}]'),
        ("table.csv", b'prompt\na\n"b"\n'),
        ("table.tsv", BOM + b"prompt\na\nb\n"),
        ("packed.csv.gz", gzip.compress(b"prompt\r\na\r\nb\r\n")),
        ("packed.jsonl.gz", gzip.compress(BOM + b'{"prompt":"a"}\r\n{"prompt":"b"}\r\n')),
    ],
)
def test_rows_are_read_by_what_the_file_holds(tmp_path: Path, name: str, content: bytes) -> None:
    assert [row for row, _ in file_rows(written(tmp_path / name, content))] == TWO


def test_a_table_may_hold_line_breaks_and_another_separator(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b'prompt;answer\n"two\nlines; here";yes\nq;\n')
    assert list(file_rows(path)) == [
        ({"prompt": "two\nlines; here", "answer": "yes"}, f"{path}:3"),
        ({"prompt": "q", "answer": None}, f"{path}:4"),
    ]
    assert len(next(file_rows(written(tmp_path / "b.csv", b"prompt\n" + b"x" * 200_000)))[0]["prompt"]) == 200_000
    with pytest.raises(InputError, match=r"c\.csv:2: has more cells than the header"):
        list(file_rows(written(tmp_path / "c.csv", b"prompt\nhello, world\n")))


def test_what_is_absent_is_absent_also_as_nan(tmp_path: Path) -> None:
    (row, _) = next(file_rows(written(tmp_path / "a.jsonl", b'{"input": NaN, "scores": [1, NaN, Infinity]}')))
    assert row == {"input": None, "scores": [1, None, math.inf]}
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({"input": [math.nan], "list": [[math.nan]]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert next(file_rows(tmp_path / "a.parquet"))[0] == {"input": None, "list": [None]}


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.csv"])
def test_a_pointer_of_git_lfs_is_called_one(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(InputError, match=rf"{name}: is a git-lfs pointer.*git lfs pull"):
        list(file_rows(path))


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.jsonl", rb'{"prompt":"a"}' + b"\n" + rb'{"prompt":"smile \ud83d"}', r"a\.jsonl:2"),
        ("a.json", rb'[{"prompt":"smile \uDE00"}]', r"a\.json: row 1"),
        ("b.json", b'{\n"prompt":"' + rb"\ud83d" + b'"\n}', r"b\.json:1"),
    ],
)
def test_half_of_a_surrogate_pair_is_refused_with_its_place(
    tmp_path: Path, name: str, content: bytes, place: str
) -> None:
    with pytest.raises(InputError, match=rf"{place}: holds half of a surrogate pair \('\\ud") as caught:
        load_examples(DataConfig(format="prompts", path=str(written(tmp_path / name, content))), seed=0, use="prompts")
    str(caught.value).encode()


def test_a_whole_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    assert next(file_rows(written(tmp_path / "a.jsonl", rb'{"prompt":"\ud83d\ude00"}')))[0] == {"prompt": "😀"}


@pytest.mark.parametrize(
    "names",
    [
        ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"],
        ["train-00000-of-00002-3f2a9c.jsonl", "train-00001-of-00002-3f2a9c.jsonl"],
        ["default/train/0000.jsonl", "default/train/0001.jsonl"],
    ],
)
def test_the_parts_of_a_download_are_read_in_order(tmp_path: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        written(tmp_path / name, b'{"n": %d}\n{"n": %d}' % (2 * number, 2 * number + 1))
    written(tmp_path / "data" / "test-00000-of-00001.jsonl", b'{"n": 9}')
    written(tmp_path / ".cache" / "train.jsonl", b'{"n": 8}')
    assert [row["n"] for row, _ in rows(str(tmp_path), "train")] == [0, 1, 2, 3]
    assert [row["n"] for row, _ in rows(str(tmp_path), "test")] == [9]


def test_a_download_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "data" / "train-00000-of-00003.jsonl", b'{"n": 1}')
    with pytest.raises(InputError, match=r"data: 2 of the 3 parts beside train-00000-of-00003\.jsonl are missing"):
        rows(str(tmp_path), "train")
    with pytest.raises(InputError, match=r"no file for the split 'dev'.* there are data/train-00000-of-00003\.jsonl"):
        rows(str(tmp_path), "dev")
