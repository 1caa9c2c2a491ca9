"""Rows that are left out are reported once in a run, with the counts of all rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rayalign.config import DataConfig
from rayalign.data.left_out import OncePerRun
from rayalign.data.readers import check, load_examples
from rayalign.storage.records import write_jsonl


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """Sixty pairs, of which the first and the last have an empty answer."""
    rows = [{"prompt": f"q {n}", "chosen": f"good {n}", "rejected": "bad"} for n in range(60)]
    rows[0]["chosen"] = rows[-1]["chosen"] = ""
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    return DataConfig(path=str(tmp_path / "pairs.jsonl"))


def test_the_same_rows_are_reported_once_and_other_counts_again() -> None:
    reported: list[tuple[str, Counter[str]]] = []
    once = OncePerRun(lambda name, counts, what="rows": reported.append((name, counts)))
    for count in (2, 2, 3):
        once("pairs", Counter({"a tie": count}))
    once("others", Counter({"a tie": 2}))
    assert [(name, counts["a tie"]) for name, counts in reported] == [("pairs", 2), ("pairs", 3), ("others", 2)]


def test_stages_that_read_the_same_file_report_its_rows_once(
    data: DataConfig, caplog: pytest.LogCaptureFixture
) -> None:
    once = OncePerRun()
    check(data, use="comparisons", whole=True, report=once)
    for split in ("train", "test"):
        load_examples(data.model_copy(update={"split": split}), seed=0, use="comparisons", report=once)
    [warning] = caplog.messages
    assert warning.endswith("pairs.jsonl: 2 rows left out (an empty answer: 2)")


def test_a_look_at_the_first_rows_counts_none(data: DataConfig, caplog: pytest.LogCaptureFixture) -> None:
    assert data.format == "auto"
    check(data, use="comparisons")
    assert caplog.messages == []


RANKED = [
    {"query": "q", "responses": ["a", " ", "b", ""], "scores": [1.0, 2.0, 3.0, 4.0]},
    {"query": "r", "responses": ["a", "", "b"], "scores": [1.0, 2.0, 3.0]},
    {"query": "s", "responses": ["a", ""], "scores": [1.0, 2.0]},
]
COMPLETED = [
    {
        "instruction": "q",
        "completions": [
            {"response": "a", "overall_score": 1.0},
            {"response": "b", "overall_score": 2.0},
            {"response": "", "overall_score": 2.0},
            {"response": "c", "overall_score": None},
        ],
    }
]


@pytest.mark.parametrize(
    ("form", "rows", "messages"),
    [
        (
            "rankings",
            RANKED,
            ["1 rows left out (fewer than two answers: 1)", "3 answers left out (an empty answer: 3)"],
        ),
        ("ultrafeedback", COMPLETED, ["2 answers left out (an empty answer: 1, no score: 1)"]),
    ],
)
def test_answers_that_are_left_out_of_rows_that_stay_are_counted_once(
    form: str, rows: list[dict[str, Any]], messages: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, rows)
    config, once = DataConfig(format=form, path=str(file)), OncePerRun()
    check(config, use="comparisons", whole=True, report=once)
    examples = load_examples(config, seed=0, use="comparisons", report=once)
    assert [candidate.text for candidate in examples[0].candidates] == ["a", "b"]
    assert caplog.messages == [f"data {form} {file}: {message}" for message in messages]
