"""Rows that are made where a data set is out of reach: each in the form of the job's own reader.

Among them are the cases that break readers and templates: the longest dialogue that has room, the shortest, an empty
answer, odd Unicode, and many turns.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from rayalign.errors import InputError

ROWS = 16
ODD = "naïve 日本語 مرحبا 👩‍👩‍👧 \u200b\ufeffzero\u0301 \U0001f6b2 <|endoftext|> [INST]"
"""combining marks, right to left, joined emoji, invisible characters, and words that templates give a meaning"""
_WORDS = (
    "apple",
    "river",
    "stone",
    "window",
    "letter",
    "garden",
    "bridge",
    "music",
    "quiet",
    "market",
    "winter",
    "paper",
    "clock",
    "engine",
    "island",
    "cloud",
)
Turns = list[tuple[str, str]]
"""role and content; the last one is a user's"""


class RowMaker:
    """Distinct dialogues from a seed.

    Args:
        room: bytes of the longest dialogue.
    """

    def __init__(self, seed: int, room: int) -> None:
        self._draw = random.Random(seed)
        self._room = max(room, 24)
        self._number = seed * 1000

    def rows(self, form: str) -> list[dict[str, Any]]:
        """Rows of a format.

        Raises:
            InputError: the format cannot be made.
        """
        if form not in _FORMS:
            raise InputError(f"rows of the format {form} cannot be made here; name a local file as data.path")
        write = _FORMS[form]
        dialogues = [self._longest(), self._shortest(), self._odd(), self._turns(7), self._turns(3)]
        while len(dialogues) < ROWS:
            dialogues.append(self._turns(1))
        written = [write(turns, self._answer(), self._answer()) for turns in dialogues]
        with_empty_answer = write(self._turns(1), "", self._answer())
        return [with_empty_answer, *written]

    def _text(self, words: int) -> str:
        """Words that no other text of this maker has in this order."""
        self._number += 1
        return " ".join([str(self._number), *self._draw.choices(_WORDS, k=words)])[: self._room]

    def _answer(self) -> str:
        return self._text(self._draw.randint(2, 6)) + f"\n#### {self._draw.randint(1, 99)}"

    def _turns(self, count: int) -> Turns:
        """A dialogue of so many turns, fewer where there is no room."""
        fitting = max(1, min(count, self._room // 48))
        fitting -= 1 - fitting % 2  # it begins and ends with the user
        return [("user" if place % 2 == 0 else "assistant", self._text(3)) for place in range(fitting)]

    def _longest(self) -> Turns:
        return [("user", self._text(self._room // 6))]

    def _shortest(self) -> Turns:
        return [("user", "a")]

    def _odd(self) -> Turns:
        text = ODD.encode()[: self._room].decode(errors="ignore")
        return [("user", text)]


def texts(seed: int = 0) -> list[str]:
    """Texts for a tokenizer that reads such rows."""
    maker = RowMaker(seed, room=400)
    lines = [ODD]
    for row in maker.rows("hh"):
        lines.append(row["chosen"])
    return lines


def _hh(turns: Turns, chosen: str, rejected: str) -> dict[str, Any]:
    names = {"user": "Human", "assistant": "Assistant"}
    before = "".join(f"\n\n{names[role]}: {content}" for role, content in turns)
    return {"chosen": f"{before}\n\nAssistant: {chosen}", "rejected": f"{before}\n\nAssistant: {rejected}"}


def _alpaca(turns: Turns, answer: str, _: str) -> dict[str, Any]:
    return {"instruction": turns[-1][1], "input": "", "output": answer}


def _prompts(turns: Turns, reference: str, _: str) -> dict[str, Any]:
    return {"messages": _messages(turns), "meta": {"reference": reference or "none"}}


def _demonstrations(turns: Turns, answer: str, _: str) -> dict[str, Any]:
    return {"messages": _messages(turns), "answer": answer}


def _comparisons(turns: Turns, chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": _messages(turns), "chosen": chosen, "rejected": rejected}


def _rankings(turns: Turns, first: str, second: str) -> dict[str, Any]:
    return {"query": turns[-1][1], "responses": [first, second, f"{second} again"], "scores": [0.9, 0.1, 0.5]}


def _unpaired(turns: Turns, answer: str, other: str) -> dict[str, Any]:
    return {"messages": _messages(turns), "answer": answer, "desirable": len(other) % 2 == 0}


def _gsm8k(turns: Turns, answer: str, _: str) -> dict[str, Any]:
    return {"question": turns[-1][1], "answer": answer}


def _messages(turns: Turns) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


_FORMS: dict[str, Callable[[Turns, str, str], dict[str, Any]]] = {
    "hh": _hh,
    "alpaca": _alpaca,
    "prompts": _prompts,
    "demonstrations": _demonstrations,
    "comparisons": _comparisons,
    "rankings": _rankings,
    "unpaired": _unpaired,
    "gsm8k": _gsm8k,
}
_BY_USE = {
    "prompts": "prompts",
    "demonstrations": "demonstrations",
    "corpus": "demonstrations",
    "comparisons": "comparisons",
    "feedback": "unpaired",
}


def makeable(form: str, use: str) -> str:
    """The format itself, or one that serves the same use where rows of it cannot be made or it is not named."""
    return form if form in _FORMS else _BY_USE[use]
