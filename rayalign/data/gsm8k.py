"""GSM8K (Cobbe 2021, arXiv 2110.14168): questions whose answers end in a number that can be verified."""

from __future__ import annotations

import re

from rayalign.data.fields import make_prompt, text_field
from rayalign.data.files import Row
from rayalign.types import Candidate, Example, Message

MARK = "####"
_CALCULATION = re.compile(r"<<[^<>]*>>")
"""what the annotators' calculator was asked, such as <<48/2=24>>"""
_DIGIT = re.compile(r"[0-9]")


def gsm8k(row: Row, where: str) -> Example | str:
    """`question`, and `answer` whose last line is `#### NUMBER`.

    The number becomes the prompt's reference answer; calculator marks are left out of the demonstration.
    """
    question = text_field(row, "question", where)
    answer = _CALCULATION.sub("", text_field(row, "answer", where)).strip()
    reference = answer.rpartition(MARK)[2].strip() if MARK in answer else ""
    if not _DIGIT.search(reference):
        return f"no number after {MARK}"
    prompt = make_prompt((Message("user", question),), {"reference": reference})
    return Example(prompt, (Candidate(answer),))
