from __future__ import annotations

from typing import get_args

import pytest

from rayalign.config import Operator
from rayalign.evolve.wordings import MARKS, OPERATORS, instruction, reply_text
from rayalign.types import Message, Prompt


def test_every_operator_has_a_wording() -> None:
    assert list(OPERATORS) == list(get_args(Operator))


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_instruction_shows_the_prompt_once_and_what_to_do(operator: str) -> None:
    text = instruction(Prompt("p", (Message("user", "sort {these} words"),)), operator).messages[0].content
    assert text.count("sort {these} words") == 1
    assert OPERATORS[operator] in text
    assert "at most 43 words" in text
    assert "conversation" not in text
    assert any(mark in text.lower() for mark in MARKS)


def test_an_instruction_shows_the_turns_before() -> None:
    turns = (Message("user", "hello"), Message("assistant", "yes ?"), Message("user", "and now"))
    text = instruction(Prompt("p", turns), "deepen").messages[0].content
    assert "<conversation>\nuser: hello\nassistant: yes ?\n</conversation>\n\n<original>\nand now\n" in text


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("<result> sort six words </result> done", "sort six words"),
        ("Sure! <result>sort six words", "sort six words"),
        ('"sort six words"\n', "sort six words"),
        ("<result></result>", ""),
    ],
)
def test_what_is_read_from_a_reply(reply: str, text: str) -> None:
    assert reply_text(reply) == text
