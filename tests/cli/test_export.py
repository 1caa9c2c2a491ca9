from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from rayalign.cli import app
from rayalign.storage.records import write_jsonl
from rayalign.types import Candidate, Comparison, Example, Message, Prompt

PROMPT = Prompt("p", (Message("user", "a question"),))


def exported(tmp_path: Path, records: list[object]) -> tuple[list[dict[str, object]], str]:
    source, target = tmp_path / "records.jsonl", tmp_path / "rows.jsonl"
    write_jsonl(source, records)
    result = CliRunner().invoke(app, ["export", str(source), "--output", str(target)])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in target.read_text().splitlines()], result.output


def test_scored_candidates_become_rows(tmp_path: Path) -> None:
    candidates = (Candidate("a", score=1.0), Candidate("b", score=-1.0), Candidate("c"))
    rows, output = exported(tmp_path, [Example(PROMPT, candidates)])
    assert rows == [{"query": "a question", "responses": ["a", "b"], "scores": [1.0, -1.0]}]
    assert "1 queries with 2 responses" in output and "left out: responses (no score: 1)" in output


def test_verdicts_become_shares_of_wins(tmp_path: Path) -> None:
    a, b, c = Candidate("a"), Candidate("b"), Candidate("c")
    comparisons = [Comparison(PROMPT, a, b, 1.0, "j"), Comparison(PROMPT, b, c, 1.5, "j")]
    unjudged = Comparison(PROMPT, a, c, None, "j")
    rows, _ = exported(tmp_path, [*comparisons, unjudged])
    assert rows == [{"query": "a question", "responses": ["a", "b", "c"], "scores": [1.0, 0.25, 0.5]}]


def test_records_without_scores_are_refused_in_one_line(tmp_path: Path) -> None:
    source = tmp_path / "records.jsonl"
    write_jsonl(source, [Example(PROMPT, (Candidate("a"), Candidate("b")))])
    for path in (source, tmp_path / "missing.jsonl"):
        result = CliRunner().invoke(app, ["export", str(path), "--output", str(tmp_path / "rows.jsonl")])
        assert result.exit_code == 2 and result.stderr.count("\n") == 1


def test_an_empty_file_is_said_to_have_no_rows(tmp_path: Path) -> None:
    source = tmp_path / "records.jsonl"
    source.touch()
    result = CliRunner().invoke(app, ["export", str(source), "--output", str(tmp_path / "rows.jsonl")])
    assert result.exit_code == 2 and "has no rows" in result.stderr
