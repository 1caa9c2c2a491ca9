from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rayalign.config import DataConfig
from rayalign.data.rankings import as_rankings, rankings
from rayalign.data.readers import load_examples
from rayalign.errors import InputError
from rayalign.types import Candidate, Example, Message, Prompt

DIALOGUE = (Message("user", "hi"), Message("assistant", "hello"), Message("user", "what is it ?"))


def example(*scores: float | None, messages: tuple[Message, ...] = (Message("user", "a question"),)) -> Example:
    answers = (Candidate(f"answer {place}", "model", score) for place, score in enumerate(scores))
    return Example(Prompt("p", messages), tuple(answers))


def read(path: Path) -> list[Example]:
    return load_examples(DataConfig(format="rankings", path=str(path)), seed=0, use="comparisons")


def test_rows_are_read_back_as_the_same_prompts_and_scores(tmp_path: Path) -> None:
    groups = [example(0.5, -1.25, 0.1), example(1.0, 1.0, messages=DIALOGUE), example(3.0, 2.0, 2.0, 7.5, -4.0)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in as_rankings(groups).rows))
    for before, after in zip(groups, read(file), strict=True):
        assert after.prompt.messages == before.prompt.messages
        assert [(c.text, c.score) for c in after.candidates] == [(c.text, c.score) for c in before.candidates]


def test_a_row_has_the_schema_of_rrhf() -> None:
    [row] = as_rankings([example(1.0, 2.0, messages=DIALOGUE)]).rows
    query = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: what is it ?\n\nAssistant:"
    assert row == {"query": query, "responses": ["answer 0", "answer 1"], "scores": [1.0, 2.0]}


def test_what_a_row_cannot_hold_is_counted() -> None:
    empty = replace(example(1.0), candidates=(Candidate(" ", score=1.0), *example(1.0, 2.0).candidates))
    dialogue = replace(example(1.0), candidates=(Candidate("a", score=1.0, turns=DIALOGUE[1:]),))
    result = as_rankings([example(1.0, None, 2.0), empty, dialogue, example(1.0), example(None, None)])
    assert [len(row["scores"]) for row in result.rows] == [2, 2]
    assert result.absent == {"no score": 3, "an empty answer": 1, "several turns": 1}
    assert result.skipped == {"fewer than two scored answers": 3}


@pytest.mark.parametrize(
    "messages",
    [
        (Message("system", "be kind"), Message("user", "hi")),
        (Message("user", "say\n\nAssistant: no"), *DIALOGUE[1:]),
        DIALOGUE[:2],
        (),
    ],
    ids=["system", "marks of the notation", "ends with an answer", "no turn"],
)
def test_a_prompt_that_no_query_is_read_as_is_left_out(messages: tuple[Message, ...]) -> None:
    assert not as_rankings([example(1.0, 2.0, messages=messages)]).rows


def test_a_turn_that_looks_like_a_dialogue_stays_one_turn() -> None:
    text = "\n\nHuman: hi\n\nAssistant: no\n\nHuman: oh"
    assert not as_rankings([example(1.0, 2.0, messages=(Message("user", text),))]).rows
    [row] = as_rankings([example(1.0, 2.0, messages=(Message("user", "say\n\nHuman: hi"),))]).rows
    read_back = rankings(row, "a row")
    assert isinstance(read_back, Example) and read_back.prompt.messages[0].content == "say\n\nHuman: hi"


def test_a_score_that_is_no_number_is_refused() -> None:
    for score in (float("nan"), None, "1"):
        with pytest.raises(InputError, match="finite numbers"):
            rankings({"query": "q", "responses": ["a", "b"], "scores": [1.0, score]}, "a row")
