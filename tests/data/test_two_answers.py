from __future__ import annotations

import logging
from typing import Any

import pytest

from rayalign.data.chat import train_tokenizer
from rayalign.data.two_answers import PairEncoder, encode_comparisons
from rayalign.types import Candidate, Example, Message, Prompt

PROMPT = Prompt("p", (Message("user", "q"),))
CONCISE = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
"""a template that opens no answers"""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["a b c"], 262)


def first_answers(tokenizer: Any, rows: list[Any]) -> list[str]:
    """What the masks mark."""
    return [tokenizer.decode([i for i, one in zip(row.token_ids, row.mask, strict=True) if one]) for row in rows]


def test_a_pair_is_read_in_both_orders_after_one_prompt(tokenizer: Any) -> None:
    pair = Example(PROMPT, (Candidate("x"), Candidate("yy")), preference=0.75)
    rows = list(encode_comparisons(tokenizer, [pair], context=100))
    assert [tokenizer.decode(row.token_ids) for row in rows] == [
        "<|user|>\nq\n<|assistant|>\nx<|end|>\n<|assistant|>\nyy<|end|>",
        "<|user|>\nq\n<|assistant|>\nyy<|end|>\n<|assistant|>\nx<|end|>",
    ]
    assert first_answers(tokenizer, rows) == ["x<|end|>", "yy<|end|>"]
    assert [(row.group, row.prompt, row.preference, row.score) for row in rows] == [(0, "p", 0.75, None)] * 2


def test_a_template_that_opens_no_answers_separates_them_by_the_end_token(tokenizer: Any) -> None:
    concise: Any = train_tokenizer(["a b c"], 262)
    concise.chat_template = CONCISE
    tokens, _ = PairEncoder(concise, None).encode(PROMPT, Candidate("x"), Candidate("y"))
    assert tokens is not None
    assert concise.decode(tokens.row().token_ids) == "qx<|end|>y<|end|>"


def test_of_several_turns_all_that_follows_the_prompt_is_the_answer(tokenizer: Any) -> None:
    turns = (Message("assistant", "which ?"), Message("user", "that"))
    first, second = Candidate("x", turns=turns), Candidate("y")
    tokens, _ = PairEncoder(tokenizer, None).encode(PROMPT, first, second)
    assert tokens is not None
    assert tokenizer.decode(tokens.first) == "which ?<|end|>\n<|user|>\nthat\n<|assistant|>\nx<|end|>"
    assert tokenizer.decode(tokens.second) == "y<|end|>"


def test_what_does_not_fit_loses_old_turns_or_is_left_out_whole(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fits = Example(PROMPT, (Candidate("x"), Candidate("y")), preference=1.0)
    long = Prompt("long", (Message("user", "a" * 40), Message("assistant", "b"), Message("user", "c")))
    cut = Example(long, (Candidate("x"), Candidate("y")), preference=1.0)
    never = Example(PROMPT, (Candidate("x"), Candidate("y" * 50)), preference=1.0)
    (exact,) = {len(row.token_ids) for row in encode_comparisons(tokenizer, [fits], context=100)}
    with caplog.at_level(logging.WARNING):
        rows = list(encode_comparisons(tokenizer, [fits, never, cut], context=exact))
    assert [row.group for row in rows] == [0, 0, 2, 2]
    assert {len(row.token_ids) for row in rows} == {exact}
    assert tokenizer.decode(rows[2].token_ids) == "<|user|>\nc\n<|assistant|>\nx<|end|>\n<|assistant|>\ny<|end|>"
    assert f"3 pairs: 1 lost early turns, 1 left out, to fit {exact} tokens" in caplog.text
    assert list(encode_comparisons(tokenizer, [fits], context=exact - 1)) == []
