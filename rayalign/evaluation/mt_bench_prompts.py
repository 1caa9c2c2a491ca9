"""Judge prompts of MT-Bench: the user's file in the public schema, else rayalign's own in the same roles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rayalign.errors import InputError
from rayalign.evaluation.tables import check_texts, read_rows
from rayalign.storage.records import write_jsonl

Kind = Literal["single", "pairwise"]
_TEXTS = ("name", "type", "system_prompt", "prompt_template", "output_format")


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """One row of judge_prompts.jsonl."""

    name: str
    type: Kind
    system_prompt: str
    prompt_template: str
    """with the fields question, answer, answer_a, answer_b, ref_answer_1 ... in braces"""
    output_format: str
    """[[rating]], [[A]] or [[rating_a,rating_b]]"""
    description: str = ""
    category: str = "general"

    def messages(self, fields: Mapping[str, str]) -> list[dict[str, str]]:
        """The dialogue of one request; the fields are filled in one pass.

        Raises:
            InputError: the template names an unknown field.
        """
        try:
            text = self.prompt_template.format(**fields)
        except (KeyError, IndexError, ValueError) as error:
            names = ", ".join(fields)
            raise InputError(f"judge prompt {self.name}: {error!r} is no field of it; known: {names}") from None
        user = {"role": "user", "content": text}
        return [{"role": "system", "content": self.system_prompt}, user] if self.system_prompt else [user]


@dataclass(frozen=True, slots=True)
class Prompts:
    """The four prompts of a mode."""

    plain: JudgePrompt
    reference: JudgePrompt
    plain_turns: JudgePrompt
    reference_turns: JudgePrompt
    """`turns`: the judge reads both turns and judges the second"""

    def choose(self, *, reference: bool, second_turn: bool) -> JudgePrompt:
        """The prompt of a question and turn."""
        if second_turn:
            return self.reference_turns if reference else self.plain_turns
        return self.reference if reference else self.plain


PUBLISHED: dict[Kind, tuple[str, str, str, str]] = {
    "single": ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn"),
    "pairwise": ("pair-v2", "pair-math-v1", "pair-v2-multi-turn", "pair-math-v1-multi-turn"),
}
"""names of a mode's prompts in the public file, in the order of `Prompts`"""


def read_prompts(path: Path) -> dict[str, JudgePrompt]:
    """All prompts of a file by name.

    Raises:
        InputError: no such file, a bad row, or another type than single and pairwise.
    """
    prompts = {}
    for row, where in read_rows(path):
        check_texts(row, where, _TEXTS)
        if row["type"] not in PUBLISHED:
            raise InputError(f"{where}: `type` must be single or pairwise, this is {row['type']!r}")
        description, category = str(row.get("description") or ""), str(row.get("category") or "general")
        values = [*(row[name] for name in _TEXTS), description, category]
        prompts[row["name"]] = JudgePrompt(*values)
    return prompts


def write_prompts(path: Path, prompts: Mapping[str, JudgePrompt]) -> None:
    """Write prompts in the public schema."""
    rows: list[dict[str, Any]] = []
    for prompt in prompts.values():
        row = {name: getattr(prompt, name) for name in (*_TEXTS[:4], "description", "category", "output_format")}
        rows.append(row)
    write_jsonl(path, rows)


def prompts_for(kind: Kind, path: Path | None) -> Prompts:
    """The prompts of a mode, of a file or our own.

    Raises:
        InputError: as `read_prompts`, or the file lacks a prompt of the mode.
    """
    if path is None:
        return _own(kind)
    prompts = read_prompts(path)
    missing = [name for name in PUBLISHED[kind] if name not in prompts]
    if missing:
        raise InputError(f"{path}: lacks the judge prompts {', '.join(missing)}")
    return Prompts(*(prompts[name] for name in PUBLISHED[kind]))


_FAIR = {
    "single": "Do not reward an answer for its length alone.",
    "pairwise": "The order of the assistants, their names and the length of their answers must not matter.",
}
_TASK = {
    "single": "Grade an assistant's answer to a user.",
    "pairwise": "Two assistants, A and B, answered the same user. Decide who served the user better.",
}
_VERDICT = {
    "single": "Reason briefly first. Then end with a grade from 1 (useless) to 10 (perfect), written as [[5]].",
    "pairwise": (
        "Reason briefly first. Then end with your verdict: [[A]] if A is better, [[B]] if B is better, [[C]] if they "
        "are equally good."
    ),
}
_GENERAL = "Look at whether the instructions are followed, and at correctness, relevance, depth and clarity."
_CHECKED = "Check the work against the reference answer and name every mistake. What counts is what is correct."
_SECOND = "The dialogue has two turns; judge the second one, with the first as its context."
_FORMATS = {"single": "[[rating]]", "pairwise": "[[A]]"}
_SINGLE_FIELDS = {"assistant": "answer"}
_PAIR_FIELDS = {"assistant A": "answer_a", "assistant B": "answer_b"}


def _own(kind: Kind) -> Prompts:
    cases = [(False, False), (True, False), (False, True), (True, True)]
    return Prompts(*(_own_prompt(kind, reference, turns) for reference, turns in cases))


def _own_prompt(kind: Kind, reference: bool, turns: bool) -> JudgePrompt:
    sentences = [_TASK[kind], _CHECKED if reference else _GENERAL, _SECOND if turns else "", _FAIR[kind]]
    system = " ".join(sentence for sentence in (*sentences, _VERDICT[kind]) if sentence)
    name = "-".join(("rayalign", kind, *(["reference"] if reference else []), *(["turns"] if turns else [])))
    sections = _dialogues(kind, reference) if turns else _one_turn(kind, reference)
    category = "math" if reference else "general"
    return JudgePrompt(name, kind, system, "\n\n".join(sections), _FORMATS[kind], "", category)


def _one_turn(kind: Kind, reference: bool) -> list[str]:
    sections = [_section("question", "{question}")]
    if reference:
        sections.append(_section("reference answer", "{ref_answer_1}"))
    fields = _SINGLE_FIELDS if kind == "single" else _PAIR_FIELDS
    return [*sections, *(_section(f"answer of {who}", f"{{{field}}}") for who, field in fields.items())]


def _dialogues(kind: Kind, reference: bool) -> list[str]:
    sections = [_section("reference dialogue", _dialogue("ref_answer"))] if reference else []
    fields = _SINGLE_FIELDS if kind == "single" else _PAIR_FIELDS
    return [*sections, *(_section(f"dialogue with {who}", _dialogue(field)) for who, field in fields.items())]


def _dialogue(field: str) -> str:
    turns = []
    for turn in (1, 2):
        turns.append(f"User: {{question_{turn}}}\n\nAnswer: {{{field}_{turn}}}")
    return "\n\n".join(turns)


def _section(title: str, text: str) -> str:
    return f"--- {title} ---\n{text}\n--- end of {title} ---"
