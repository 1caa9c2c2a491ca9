from __future__ import annotations

import pytest

from rayalign.data.unpaired import answers_of_pairs, single_answers, unpaired, with_mismatched
from rayalign.errors import InputError
from rayalign.types import Candidate, Example, Message, Prompt

WHERE = "a.jsonl:1"


def single(prompt: str, text: str, desirable: float | None = 1.0) -> Example:
    return Example(Prompt(prompt, (Message("user", prompt),)), (Candidate(text),), desirable=desirable)


def shown(examples: object) -> list[tuple[str, ...]]:
    return [(e.prompt.id, *(c.text for c in e.candidates), e.desirable) for e in examples]  # type: ignore[attr-defined]


@pytest.mark.parametrize("answer", ["answer", "response", "completion"])
@pytest.mark.parametrize(("key", "value"), [("desirable", True), ("label", False)])
def test_a_row_is_one_answer_that_is_good_or_bad(answer: str, key: str, value: bool) -> None:
    example = unpaired({"prompt": "q", answer: "a", key: value}, WHERE)
    assert isinstance(example, Example)
    assert (example.candidates, example.desirable) == ((Candidate("a"),), float(value))


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_what_is_neither_good_nor_bad_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="a.jsonl:1: 'desirable' must be true or false"):
        unpaired({"prompt": "q", "answer": "a", "desirable": value}, WHERE)


def test_an_empty_answer_is_left_out() -> None:
    assert unpaired({"prompt": "q", "answer": " ", "desirable": True}, WHERE) == "an empty answer"


def test_a_pair_is_a_good_and_a_bad_answer_by_its_probability() -> None:
    pair = Example(Prompt("p", ()), (Candidate("x"), Candidate("y")), preference=0.75)
    assert shown(answers_of_pairs([pair])) == [("p", "x", 0.75), ("p", "y", 0.25)]


def test_rows_are_single_answers_already_or_are_read_as_pairs() -> None:
    answers = [single("p", "a"), single("p", "b", 0.0)]
    assert list(single_answers(answers)) == answers
    scores = {"x": 1.0, "y": 3.0, "z": 1.0}
    ranking = Example(Prompt("p", ()), tuple(Candidate(text, score=score) for text, score in scores.items()))
    assert shown(single_answers([ranking])) == [("p", "y", 1.0), ("p", "x", 0.0), ("p", "y", 1.0), ("p", "z", 0.0)]
    assert list(single_answers([])) == []


def test_each_answer_has_one_to_the_next_prompt_beside_it() -> None:
    rows = [
        single("p", "a"),
        single("p", "b", 0.0),
        single("p", "c"),
        single("q", "d"),
        single("q", "e"),
        single("r", "f"),
    ]
    assert shown(with_mismatched(rows)) == [
        ("p", "a", "d", 1.0),
        ("p", "b", "e", 0.0),
        ("p", "c", "d", 1.0),
        ("q", "d", "f", 1.0),
        ("q", "e", "f", 1.0),
        ("r", "f", "a", 1.0),
    ]


def test_one_prompt_alone_has_no_other() -> None:
    assert list(with_mismatched([])) == []
    with pytest.raises(InputError, match="all rows have one prompt"):
        list(with_mismatched([single("p", "a"), single("p", "b")]))


@pytest.mark.parametrize(("word", "value"), [("true", 1.0), ("False", 0.0)])
def test_a_table_writes_true_and_false_as_words(word: str, value: float) -> None:
    example = unpaired({"prompt": "q", "answer": "a", "desirable": word}, WHERE)
    assert isinstance(example, Example) and example.desirable == value
