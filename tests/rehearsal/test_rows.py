"""Rows that are made, and rows that are chosen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayalign.config import DataConfig
from rayalign.data.chat import encode_example, train_tokenizer
from rayalign.data.readers import Use, load_examples
from rayalign.errors import InputError
from rayalign.rehearsal.made_rows import RowMaker, texts
from rayalign.rehearsal.row_choice import choose
from rayalign.types import Candidate, Example, Message, Prompt

USES: dict[str, Use] = {
    "hh": "comparisons",
    "alpaca": "demonstrations",
    "prompts": "prompts",
    "demonstrations": "demonstrations",
    "comparisons": "comparisons",
    "rankings": "comparisons",
    "unpaired": "feedback",
    "gsm8k": "demonstrations",
}


@pytest.mark.parametrize("form", USES)
def test_made_rows_are_read_by_their_own_reader(form: str, tmp_path: Path) -> None:
    rows = RowMaker(1, room=400).rows(form)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = load_examples(DataConfig(format=form, path=str(tmp_path)), seed=0, use=USES[form])
    assert len(examples) >= 15
    assert any(not message.content.isascii() for e in examples for message in e.prompt.messages), "odd Unicode"
    prompts = [example.prompt.messages for example in examples]
    assert len(set(prompts)) == len(prompts)
    if form in ("hh", "prompts", "demonstrations", "comparisons"):
        assert max(map(len, prompts)) == 7


def test_made_dialogues_have_room_in_a_short_context() -> None:
    tokenizer = train_tokenizer(iter(texts()), 512)
    for row in RowMaker(2, room=60).rows("demonstrations"):
        messages = tuple(Message(turn["role"], turn["content"]) for turn in row["messages"])
        ids, _ = encode_example(tokenizer, Prompt("p", messages), "")
        assert len(ids) <= 120


def test_a_format_that_cannot_be_made_says_so() -> None:
    with pytest.raises(InputError, match="rows of the format records cannot be made here; name a local file"):
        RowMaker(0, 100).rows("records")


def row(name: str, text: str, answer: str = "yes", turns: int = 1) -> Example:
    messages = [Message("user" if place % 2 == 0 else "assistant", text) for place in range(turns)]
    return Example(Prompt(name, tuple(messages)), (Candidate(answer),))


def test_the_extreme_rows_are_chosen_among_many() -> None:
    plain = [row(f"plain{number}", "some words " * 5) for number in range(2000)]
    extreme = [
        row("longest", "word " * 900),
        row("shortest", "a"),
        row("empty", "some words " * 5, answer=""),
        row("odd", "pictures \U0001f468\u200d\U0001f469 and marks e\u0301"),
        row("turns", "some words ", turns=9),
    ]
    choice = choose([*plain[:1000], *extreme, *plain[1000:]], seed=0)
    chosen = {example.prompt.id for example in choice.examples}
    assert {"longest", "shortest", "empty", "odd", "turns"} <= chosen
    assert choice.total == 2005
    assert len(choice.examples) <= 20
    assert choice.kinds["random"] == 8


def test_extreme_rows_of_one_prompt_are_all_chosen() -> None:
    plain = [row(f"plain{number}", "some words " * 5) for number in range(2000)]
    extreme = [row("same", "ask", answer="word " * 900), row("same", "ask", answer=""), row("same", "a", answer="b")]
    choice = choose([*plain, *extreme], seed=0)
    assert all(example in choice.examples for example in extreme), "the longest, the emptiest, and the shortest"


def test_the_choice_follows_from_the_seed() -> None:
    rows = [row(f"row{number}", f"text {number}") for number in range(500)]
    one, same, other = choose(rows, 1), choose(rows, 1), choose(rows, 2)
    assert one == same
    assert one.examples != other.examples


def test_few_rows_are_all_chosen() -> None:
    rows = [row("one", "a"), row("two", "bb")]
    assert list(choose(rows, 0).examples) == rows
