"""Rows that are left out are reported once in a run, with the counts of all rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

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
    once = OncePerRun(lambda name, counts: reported.append((name, counts)))
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
