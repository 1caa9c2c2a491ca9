"""The shapes in which data sets are published, with and without their format named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rayalign.config import DataConfig
from rayalign.data.readers import Use, format_of, load_examples
from rayalign.errors import InputError
from rayalign.types import Candidate, Example

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
OTHER = {"role": "assistant", "content": "b"}
SYSTEM = {"role": "system", "content": "s"}
HUMAN, GPT = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "q"}]}
BETTER = (("a", 1.0), ("b", 0.0))
RECORD = {"id": "1", "messages": [USER]}
SHARED = [USER, {"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]

SHAPES: list[tuple[str, dict[str, Any], str, tuple[tuple[str, float | None], ...]]] = [
    ("comparisons", {"prompt": "q", "chosen": "a", "rejected": "b"}, "q", BETTER),
    ("comparisons", {"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]}, "q", BETTER),
    ("comparisons", {"chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, "q", BETTER),
    ("comparisons", {"prompt": "q", "chosen": [USER, ANSWER], "rejected": [USER, OTHER], "messages": []}, "q", BETTER),
    ("comparisons", {"prompt": [SYSTEM, USER], "chosen": ANSWER, "rejected": OTHER}, "sq", BETTER),
    ("comparisons", {"chosen": [*SHARED, ANSWER], "rejected": [*SHARED, OTHER]}, "qxy", BETTER),
    (
        "comparisons",
        {"prompt": [USER], "chosen": [*SHARED[1:], ANSWER], "rejected": [*SHARED[1:], OTHER]},
        "qxy",
        BETTER,
    ),
    (
        "comparisons",
        {"system": "s", "history": [["h", "i"]], "prompt": "q", "chosen": "a", "rejected": "b"},
        "shiq",
        BETTER,
    ),
    ("comparisons", {"question": "q", "chosen": "a", "rejected": "b"}, "q", BETTER),
    ("comparisons", {"instruction": "q", "input": "r", "chosen": "a", "rejected": "b"}, "q\n\nr", BETTER),
    ("demonstrations", {"messages": [SYSTEM, USER, ANSWER]}, "sq", (("a", None),)),
    ("demonstrations", {"messages": [USER, OTHER, SYSTEM, USER, ANSWER]}, "qbsq", (("a", None),)),
    ("demonstrations", {"conversations": [HUMAN, GPT]}, "q", (("a", None),)),
    ("demonstrations", {"system": "s", "conversations": [HUMAN, GPT]}, "sq", (("a", None),)),
    ("demonstrations", {"messages": [PARTS, ANSWER]}, "q", (("a", None),)),
    ("demonstrations", {"question": "q", "answer": "a"}, "q", (("a", None),)),
    ("demonstrations", {"prompt": [USER], "completion": [ANSWER]}, "q", (("a", None),)),
    ("alpaca", {"instruction": "q", "input": "", "output": "a", "history": [], "system": ""}, "q", (("a", None),)),
    (
        "alpaca",
        {"instruction": "q", "input": "r", "output": "a", "history": [["h", "i"]], "system": "s"},
        "shiq\n\nr",
        (("a", None),),
    ),
    ("alpaca", {"instruction": "q", "input": None}, "q", ()),
    ("prompts", {"prompt": "q"}, "q", ()),
    ("prompts", {"question": "q"}, "q", ()),
    ("prompts", {"messages": [SYSTEM, USER]}, "sq", ()),
    ("rankings", {"query": "q", "responses": ["a", "b"], "scores": [2, 1]}, "q", (("a", 2.0), ("b", 1.0))),
    ("rankings", {"prompt": "q", "answers": ["a", "b"], "ratings": [2, 1]}, "q", (("a", 2.0), ("b", 1.0))),
    (
        "rankings",
        {"prompt": "\n\nHuman: q\n\nAssistant:", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 3}]},
        "q",
        (("a", -1.0), ("b", -3.0)),
    ),
    (
        "ultrafeedback",
        {
            "instruction": "q",
            "completions": [{"response": "a", "overall_score": 7.5}, {"response": "b", "overall_score": 3}],
        },
        "q",
        (("a", 7.5), ("b", 3.0)),
    ),
    (
        "shp",
        {"history": "q", "human_ref_A": "b", "human_ref_B": "a", "labels": 0, "score_A": 1, "score_B": 9},
        "q",
        BETTER,
    ),
    (
        "webgpt",
        {"question": {"full_text": "q"}, "answer_0": "b", "answer_1": "a", "score_0": -0.5, "score_1": 0.5},
        "q",
        BETTER,
    ),
    ("unpaired", {"prompt": [USER], "completion": [ANSWER], "label": True}, "q", (("a", None),)),
    ("gsm8k", {"question": "q", "answer": "a\n#### 2"}, "q", (("a\n#### 2", None),)),
    (
        "records",
        {"prompt": RECORD, "first": {"text": "b"}, "second": {"text": "a"}, "preference": 2, "annotator": "x"},
        "q",
        (("b", 0.0), ("a", 1.0)),
    ),
    ("records", {"prompt": RECORD, "candidates": [{"text": "a", "score": 3}]}, "q", (("a", 3.0),)),
]


def rows_in(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, use: Use = "prompts", **settings: Any) -> list[Example]:
    return load_examples(DataConfig(path=str(path), split="all", **settings), seed=0, use=use)


@pytest.mark.parametrize(("form", "row", "turns", "answers"), SHAPES)
def test_a_published_shape_is_recognised_and_read(
    tmp_path: Path, form: str, row: dict[str, Any], turns: str, answers: tuple[tuple[str, float | None], ...]
) -> None:
    path = rows_in(tmp_path / "a.jsonl", row)
    assert format_of(DataConfig(path=str(path))) == form
    (example,) = read(path)
    assert "".join(message.content for message in example.prompt.messages) == turns
    assert tuple((answer.text, answer.score) for answer in example.candidates) == answers
    assert read(path, format=form) == [example]


def test_a_table_is_a_data_set_too(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('instruction,input,output_1,output_2,preference\nq,,a,b,1\nq,,a,b,2\n"q",x,a,b,\n')
    assert [example.preference for example in read(path, "comparisons")] == [1.0, 0.0]
    path.write_text("prompt,completion,label\nq,a,true\nr,b,False\n")
    assert [example.desirable for example in read(path, "feedback", format="unpaired")] == [1.0, 0.0]


def test_columns_of_any_name_are_mapped(tmp_path: Path) -> None:
    path = rows_in(tmp_path / "a.jsonl", {"Q": "q", "A": "a", "answer": "other"})
    (example,) = read(path, "demonstrations", columns={"prompt": "Q", "answer": "A"})
    assert (example.prompt.messages[0].content, example.candidates) == ("q", (Candidate("a"),))
    with pytest.raises(InputError, match=r"a\.jsonl:1: `data\.columns` maps 'B', but the row has Q, A, answer"):
        read(path, "demonstrations", columns={"prompt": "Q", "answer": "B"})


def test_rows_of_no_known_format_are_refused_with_the_formats(tmp_path: Path) -> None:
    path = rows_in(tmp_path / "a.jsonl", {"Q": "q", "A": "a"})
    with pytest.raises(InputError, match=r"a\.jsonl:1: no format is recognised .*alpaca.*data\.columns"):
        read(path)
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "gone.jsonl")
    with pytest.raises(InputError, match=r"makes its rows itself and reads no files"):
        read(path, format="paddock")


@pytest.mark.parametrize(
    ("form", "row", "said"),
    [
        (
            "comparisons",
            {"prompt": "q", "chosen": 3, "rejected": "b"},
            "needs a text 'chosen', but there it is a number",
        ),
        ("comparisons", {"prompt": {"a": 1}, "chosen": "a", "rejected": "b"}, "'prompt', but there it is an object"),
        ("comparisons", {"chosen": [USER], "rejected": [USER]}, "`chosen` must end with the assistant's turn"),
        (
            "comparisons",
            {"prompt": "z", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
            "not what `chosen` begins",
        ),
        ("comparisons", {"instruction": "q", "output_1": "a", "output_2": "b"}, "`preference` is missing"),
        (
            "comparisons",
            {"instruction": "q", "input": 3, "output_1": "a", "output_2": "b", "preference": 1},
            "a number",
        ),
        ("alpaca", {"instruction": "q", "input": ["x"], "output": "a"}, "text 'input', but there it is a list"),
        ("alpaca", {"instruction": "q", "history": [["a"]], "output": "a"}, "`history` must be a list of [question"),
        ("alpaca", {"instruction": "q", "system": 3, "output": "a"}, "'system', but there it is a number"),
        (
            "demonstrations",
            {"messages": [USER, {"role": "assistant", "content": None}]},
            "turn 2: its content must be a",
        ),
        ("demonstrations", {"messages": [USER, {"role": "tool", "content": "x"}]}, "turn 2: the role of a message is"),
        (
            "demonstrations",
            {"messages": "q"},
            "`messages` must be a list of objects with role and content, but it is a",
        ),
        (
            "demonstrations",
            {"messages": [PARTS | {"content": [{"type": "image_url"}]}, ANSWER]},
            "part of type image_url",
        ),
        ("demonstrations", {"prompt": "q", "answer": "a", "images": ["x.png"]}, "has 'images'"),
        ("demonstrations", {"system": "t", "messages": [SYSTEM, USER, ANSWER]}, "two system turns"),
        ("shp", {"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 2}, "`labels` must be 1"),
        (
            "unpaired",
            {"prompt": "q", "answer": "a", "label": "good"},
            "'label' must be true or false, but it is 'good'",
        ),
    ],
)
def test_a_refusal_names_what_is_there(tmp_path: Path, form: str, row: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=r"a\.jsonl:2: ") as caught:
        read(_second(tmp_path, row), format=form)
    assert said in str(caught.value)


def _second(folder: Path, row: dict[str, Any]) -> Path:
    """A file whose second line holds the row."""
    path = folder / "a.jsonl"
    path.write_text("\n" + json.dumps(row))
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": [USER, ANSWER], "rejected": [SYSTEM, OTHER]},
        {"question": "q", "answer_0": "a", "answer_1": "b", "score_0": 0, "score_1": 0},
        {"prompt": RECORD, "first": {"text": "b"}, "second": {"text": "a"}, "preference": None, "annotator": "x"},
        {"prompt": RECORD, "first": {"text": "b"}, "second": {"text": "a"}, "preference": 1.5, "annotator": "x"},
    ],
)
def test_a_pair_must_prefer_something(tmp_path: Path, row: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="not one usable row"):
        read(rows_in(tmp_path / "a.jsonl", row), "comparisons")
    assert "1 rows left out" in caplog.text


def test_an_alpaca_row_without_output_serves_as_a_prompt(tmp_path: Path) -> None:
    rows = [{"instruction": text, "output": output} for text, output in (("p", "a"), ("q", None), ("r", ""))]
    path = rows_in(tmp_path / "a.jsonl", *rows, {"instruction": "s"})
    assert len(read(path)) == 4
    assert [example.candidates[0].text for example in read(path, "demonstrations")] == ["a"]
