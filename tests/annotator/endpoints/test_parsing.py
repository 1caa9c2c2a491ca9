from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from rayalign.annotator.endpoints import parsing as replies
from rayalign.annotator.endpoints.attempts import AttemptError
from rayalign.annotator.endpoints.parsing import MAX_COMPLETION, plain, printable, read_within_limit, shortened


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("two\nlines\t of  text", "two lines of text"),
        ("\x1b]0;owned\x07\x1b[2J", "?]0;owned??[2J"),
        ("nul\x00 and delete\x7f", "nul? and delete?"),
        ("right to left \u202e and half an emoji \ud83d", "right to left ? and half an emoji ?"),
        ("größer, 大きい, ∑", "größer, 大きい, ∑"),
        ("long " * 1000, ("long " * 1000)[:300]),
    ],
)
def test_a_text_becomes_one_line_that_controls_nothing(text: str, line: str) -> None:
    assert printable(text) == line


def test_a_key_is_never_in_a_message() -> None:
    assert plain("the key sk-secret\nis wrong: sk-secret", "sk-secret") == "the key *** is wrong: ***"


def test_a_long_completion_is_stored_in_part() -> None:
    assert shortened(None) is None
    assert shortened("short") == "short"
    long = shortened("x" * (MAX_COMPLETION + 5))
    assert isinstance(long, str) and long.endswith("x... (5 more characters)") and len(long) < MAX_COMPLETION + 50


def test_a_long_choice_loses_its_log_probs_first() -> None:
    choice = {"message": {"content": "Output (a)"}, "logprobs": {"content": ["y" * MAX_COMPLETION]}}
    assert shortened(choice) == {"message": {"role": "assistant", "content": "Output (a)"}, "logprobs": None}
    small = {"text": "a", "logprobs": {"content": []}}
    assert shortened(small) is small


class Body(httpx.AsyncByteStream):
    """So many parts of a thousand bytes; notes how many were read."""

    def __init__(self, parts: int) -> None:
        self.parts, self.read = parts, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self.parts):
            self.read += 1
            yield b"x" * 1000


def test_a_reply_is_read_up_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "MAX_REPLY", 10_000)

    async def read(body: Body) -> int:
        response = httpx.Response(200, stream=body)
        await read_within_limit(response)
        return len(await response.aread())

    assert asyncio.run(read(Body(10))) == 10_000
    endless = Body(1_000_000)
    with pytest.raises(AttemptError, match="a reply of more than"):
        asyncio.run(read(endless))
    assert endless.read == 11
