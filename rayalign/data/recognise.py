"""The format of rows that a job names none for, by the keys of the first row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from rayalign.data.dialogue import ROLES
from rayalign.data.fields import ANSWERS, DIALOGUES, QUESTIONS, first_present
from rayalign.data.files import Row
from rayalign.data.gsm8k import MARK
from rayalign.data.rankings import ANSWER_LISTS, SCORE_LISTS
from rayalign.data.unpaired import LABELS

AUTO = "auto"
"""the format of data that are recognised"""


def recognise(row: Row) -> str | None:
    """The name of the format that a row has; None where none fits."""
    return next((name for name, fits in _SIGNS.items() if fits(row)), None)


def _is_record(row: Row) -> bool:
    prompt = row.get("prompt")
    of_a_stage = isinstance(prompt, dict) and "messages" in prompt
    return of_a_stage and ("candidates" in row or {"first", "second", "preference"} <= row.keys())


def _is_hh(row: Row) -> bool:
    sides = (row.get("chosen"), row.get("rejected"))
    return all(isinstance(side, str) and side.startswith("\n\nHuman:") for side in sides)


def _is_ranking(row: Row) -> bool:
    key = first_present(row, ANSWER_LISTS)
    if key is None or not isinstance(row[key], list):
        return False
    scored_entries = all(isinstance(entry, dict) for entry in row[key]) and bool(row[key])
    return scored_entries or first_present(row, SCORE_LISTS) is not None


def _is_unpaired(row: Row) -> bool:
    return any(isinstance(row.get(label), bool) for label in LABELS) and first_present(row, ANSWERS) is not None


def _is_gsm8k(row: Row) -> bool:
    return isinstance(row.get("question"), str) and MARK in str(row.get("answer"))


def _is_demonstration(row: Row) -> bool:
    if first_present(row, ANSWERS) and (first_present(row, QUESTIONS) or first_present(row, DIALOGUES)):
        return True
    key = first_present(row, DIALOGUES)
    last = row[key][-1] if key and isinstance(row[key], list) and row[key] else None
    if not isinstance(last, dict):
        return False
    return ROLES.get(str(last.get("role", last.get("from")))) == "assistant"


_SIGNS: Mapping[str, Callable[[Row], bool]] = MappingProxyType(
    {
        "records": _is_record,
        "hh": _is_hh,
        "shp": lambda row: {"human_ref_A", "human_ref_B", "labels"} <= row.keys(),
        "webgpt": lambda row: {"answer_0", "answer_1", "score_0", "score_1"} <= row.keys(),
        "ultrafeedback": lambda row: {"instruction", "completions"} <= row.keys(),
        "comparisons": lambda row: {"chosen", "rejected"} <= row.keys() or {"output_1", "output_2"} <= row.keys(),
        "rankings": _is_ranking,
        "unpaired": _is_unpaired,
        "gsm8k": _is_gsm8k,
        "alpaca": lambda row: "instruction" in row and not first_present(row, ANSWERS[:-1]),
        "demonstrations": _is_demonstration,
        "prompts": lambda row: bool(first_present(row, QUESTIONS) or first_present(row, DIALOGUES)),
    }
)
"""each format with what its rows show; the first that fits is taken"""
