from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rayalign.errors import InputError
from rayalign.evaluation import arena_hard
from rayalign.evaluation.arena_files import (
    Answer,
    Answers,
    Question,
    read_answers,
    read_judgments,
    read_questions,
    styles_of,
    write_answers,
    write_questions,
)
from rayalign.evaluation.arena_games import prompt_id
from rayalign.evaluation.arena_style import style_features, style_of
from rayalign.storage.records import read_jsonl, write_jsonl
from tests.evaluation import arena_rows

MARKDOWN = """# Title
### Part
**One** and __two__, then **three**, but not *four* or _five_.
- a
* b
+ c
  - deeper
1. d
22. e
```
# no header
- no list
**no bold**
```
#no header
-no list
** no
bold **
"""


@pytest.mark.parametrize(
    ("version", "question"),
    [
        ("v0.1", Question("9f1c", "arena-hard-v0.1", "Name a knot.", "Knots & Ropes", "v0.1")),
        ("v2.0", Question("77ab", "hard_prompt", "Name a knot.", "coding", "v2.0", "subcategory")),
    ],
)
def test_a_public_question_is_read_and_written_as_it_was(tmp_path: Path, version: str, question: Question) -> None:
    row = arena_rows.QUESTIONS[version]
    write_jsonl(tmp_path / "question.jsonl", [row])
    questions = read_questions(str(tmp_path / "question.jsonl"))
    assert questions == [question]
    write_questions(tmp_path / "again.jsonl", questions)
    (again,) = read_jsonl(tmp_path / "again.jsonl")
    assert again == row and list(again) == list(row)


def test_the_questions_of_v01_in_the_later_schema_keep_their_cluster(tmp_path: Path) -> None:
    row = {"uid": "9f1c", "category": "arena-hard-v0.1", "cluster": "Knots & Ropes", "prompt": "Name a knot."}
    write_jsonl(tmp_path / "question.jsonl", [row])
    questions = read_questions(str(tmp_path / "question.jsonl"))
    assert [(question.cluster, question.form) for question in questions] == [("Knots & Ropes", "v2.0")]
    write_questions(tmp_path / "again.jsonl", questions)
    assert list(read_jsonl(tmp_path / "again.jsonl")) == [row]


@pytest.mark.parametrize("version", arena_rows.VERSIONS)
def test_public_answers_are_read_and_written_as_they_were(tmp_path: Path, version: str) -> None:
    write_jsonl(tmp_path / "question.jsonl", [arena_rows.QUESTIONS[version]])
    questions = read_questions(str(tmp_path / "question.jsonl"))
    row = arena_rows.ANSWERS[version][0]
    write_jsonl(tmp_path / "answers.jsonl", [row])
    (answers,) = read_answers([tmp_path / "answers.jsonl"])
    assert answers == Answers("knotter", {questions[0].id: Answer("A bowline.", arena_rows.style(4))})
    write_answers(tmp_path / "again.jsonl", answers, questions, tstamp=row["tstamp"])
    (again,) = read_jsonl(tmp_path / "again.jsonl")
    identifier = "answer_id" if version == "v0.1" else "ans_id"  # a hash of ours
    assert again == {**row, identifier: again[identifier]} and list(again) == list(row)


@pytest.mark.parametrize("version", arena_rows.VERSIONS)
def test_public_judgments_are_read_as_they_are(tmp_path: Path, version: Any) -> None:
    row = arena_rows.JUDGMENTS[version]
    write_jsonl(tmp_path / "judge" / "knotter.jsonl", [row])
    assert read_judgments(tmp_path / "judge") == [row]
    # a win, and a strong win that counts three times
    assert arena_hard.battles([row], rules=version) == [arena_hard.Battle("knotter", prompt_id(row), 1.0)] * 4


GAME = {"score": "A>B"}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"uid": "u", "model": "m", "games": [GAME]}, "`games` must hold the two games"),
        ({"uid": "u", "model": "m", "games": [GAME, GAME, GAME]}, "`games` must hold the two games"),
        ({"uid": "u", "model": "m", "games": {"first": GAME, "second": GAME}}, "`games` must hold the two games"),
        ({"uid": "u", "model": "m"}, "`games` must hold the two games"),
        ({"question_id": 1, "model": None, "games": [GAME, GAME]}, "`model` must be text"),
        ({"model": "m", "games": [GAME, GAME]}, "needs a `uid` .* or a `question_id`"),
    ],
)
def test_a_bad_judgment_is_named(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    good = {"uid": "u0", "model": "m", "games": [None, GAME]}
    write_jsonl(tmp_path / "j.jsonl", [good])
    assert read_judgments(tmp_path / "j.jsonl") == [good]  # a game that the judge did not answer
    write_jsonl(tmp_path / "j.jsonl", [good, row])
    with pytest.raises(InputError, match=rf"j\.jsonl:2: {problem}"):
        read_judgments(tmp_path / "j.jsonl")


def test_markdown_of_every_kind_is_counted_as_published() -> None:
    counts = style_of(MARKDOWN)
    assert counts["header_count"] == {"h1": 1, "h2": 0, "h3": 1, "h4": 0, "h5": 0, "h6": 0}
    assert counts["list_count"] == {"ordered": 2, "unordered": 4}
    assert counts["bold_count"] == {"**": 2, "__": 1}
    model = {**counts, "token_len": 9}
    baseline = {"token_len": 4, "header_count": {"h1": 2}, "list_count": {"ordered": 0}, "bold_count": {"__": 2}}
    # densities: 2, 6 and 3 of ten, against 2, 0 and 2 of five
    expected = [5 / 13, (0.2 - 0.4) / 1.6, 0.6 / 1.6, (0.3 - 0.4) / 1.7]
    assert style_features(model, baseline).tolist() == pytest.approx(expected)


def test_all_styles_are_counted_by_us_where_one_answer_has_none() -> None:
    from_file, ours = arena_rows.style(900), style_of(MARKDOWN)
    counted = Answers("counted", {1: Answer(MARKDOWN, from_file), 2: Answer(MARKDOWN, from_file)})
    assert styles_of([counted]) == {"counted": {1: from_file, 2: from_file}}
    for absent in (None, {}):
        partial = Answers("partial", {1: Answer(MARKDOWN, from_file), 2: Answer(MARKDOWN, absent)})
        assert styles_of([counted, partial]) == {"counted": {1: ours, 2: ours}, "partial": {1: ours, 2: ours}}
