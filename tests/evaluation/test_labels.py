from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rayalign.errors import InputError
from rayalign.evaluation.labels import join_labels


def file(path: Path, *rows: tuple[str, str, str, float | None], **more: Any) -> Path:
    """Rows of instruction, two outputs and a preference."""
    named = [dict(zip(("instruction", "output_1", "output_2", "preference"), r, strict=True)) | more for r in rows]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(named))
    return path


def test_pairs_are_joined_by_texts_in_either_order(tmp_path: Path) -> None:
    judge = file(tmp_path / "judge.json", ("q", "x", "y", 1.0), ("r", "x", "y", 1.8), ("s", "x", "y", None))
    people = file(tmp_path / "people.json", ("r", "y", "x", 1.0), ("q", "x", "y", 0), ("t", "x", "y", 1.0))
    found = join_labels([judge], [people])
    assert found.prompts == ("q", "r")
    assert found.judges == {"judge.json": [1.0, 1.8]}
    assert found.humans == {"people.json": [1.5, 2.0]}
    assert found.unmatched == 2


def test_ids_go_before_texts(tmp_path: Path) -> None:
    judge = tmp_path / "judge.json"
    base = {"instruction": "q", "output_1": "x", "output_2": "y"}
    judge.write_text(json.dumps([{**base, "id": i, "preference": p} for i, p in ((1, 1.0), (2, 2.0))]))
    people = tmp_path / "people.json"
    rows = [
        {**base, "id": i, "preference": p, "annotator": a}
        for a, i, p in (("ann", 2, 1.0), ("bo", 1, 1.0), ("bo", 2, 2.0))
    ]
    people.write_text(json.dumps(rows))
    found = join_labels([judge], [people])
    assert found.judges == {"judge.json": [1.0, 2.0]}
    assert found.humans == {"ann": [None, 1.0], "bo": [1.0, 2.0]}


def test_ids_join_pairs_in_either_order_too(tmp_path: Path) -> None:
    judge = file(tmp_path / "judge.json", ("q", "x", "y", 1.0), id=1)
    people = file(tmp_path / "people.json", ("q", "y", "x", 1.8), id=1)
    found = join_labels([judge], [people])
    assert (found.judges, found.humans) == ({"judge.json": [1.0]}, {"people.json": [pytest.approx(1.2)]})


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    a, b = (file(tmp_path / n / "annotations.json", ("q", "x", "y", 1.0)) for n in "ab")
    assert list(join_labels([a, b]).judges) == ["a/annotations.json", "b/annotations.json"]
    with pytest.raises(InputError, match="named twice"):
        join_labels([a, a])


def test_a_rater_labels_a_pair_once(tmp_path: Path) -> None:
    judge = file(tmp_path / "judge.json", ("q", "x", "y", 1.0), ("q", "y", "x", 1.0))
    with pytest.raises(InputError, match="judge.json labels one pair twice: 'q'"):
        join_labels([judge])


def test_raters_without_a_pair_in_common(tmp_path: Path) -> None:
    judge, people = (file(tmp_path / f"{n}.json", (n, "x", "y", 1.0)) for n in ("judge", "people"))
    with pytest.raises(InputError, match="share no pair"):
        join_labels([judge], [people])
