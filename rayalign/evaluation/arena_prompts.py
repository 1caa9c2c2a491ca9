"""Judge prompts of Arena-Hard: the user's settings file in the published form, else rayalign's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rayalign.errors import InputError

CONTINUE = "Go on, and end with your verdict: one of the five labels."
"""after a judgment without a label"""
_FIELDS = {
    "QUESTION": "question", "ANSWER_A": "a", "ANSWER_B": "b", "question_1": "question", "answer_1": "a",
    "answer_2": "b",
}  # fmt: skip
"""names in v2.0's templates and in those of v0.1"""


@dataclass(frozen=True, slots=True)
class ArenaPrompts:
    """What the judge is sent."""

    systems: Mapping[str, str]
    """category -> system prompt; `default` for all others"""
    template: str

    def messages(self, category: str, question: str, a: str, b: str) -> list[dict[str, str]]:
        """The dialogue of one game; the fields are filled in one pass.

        Raises:
            InputError: the template names an unknown field.
        """
        texts = {"question": question, "a": a, "b": b}
        fields = {name: texts[slot] for name, slot in _FIELDS.items()}
        try:
            text = self.template.format(**fields)
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(f"prompt_template: {error!r} is no field of it; known: {', '.join(_FIELDS)}") from None
        system = self.systems.get(category, self.systems["default"])
        user = {"role": "user", "content": text}
        return [{"role": "system", "content": system}, user] if system else [user]


def read_arena_prompts(path: Path | None) -> ArenaPrompts:
    """The prompts of a settings file (YAML); what it lacks, and without a file all, is ours.

    Keys: `prompt_template`, a text or a list of one; `system_prompt`, a text or an object of texts by category. Others
    are left alone, since the published files hold further settings.

    Raises:
        InputError: no such file, not YAML, or a key of another form.
    """
    if path is None:
        return ArenaPrompts(_SYSTEMS, _TEMPLATE)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {error}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: must hold settings such as prompt_template")
    return ArenaPrompts(_systems(raw.get("system_prompt"), path), _template(raw.get("prompt_template"), path))


def _systems(value: Any, path: Path) -> Mapping[str, str]:
    if value is None:
        return _SYSTEMS
    by_category = value if isinstance(value, dict) else {"default": value}
    if not all(isinstance(text, str) for text in by_category.values()):
        raise InputError(f"{path}: `system_prompt` must be a text, or an object of texts by category")
    return {**_SYSTEMS, **by_category} if "default" not in by_category else by_category


def _template(value: Any, path: Path) -> str:
    if value is None:
        return _TEMPLATE
    text = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(text, str):
        raise InputError(f"{path}: `prompt_template` must be a text, or a list of one")
    return text


_TASK = "Two assistants, A and B, answered the same user. Decide who served the user better, and by how much."
_SOLVE = "Work out an answer of your own first, and hold both answers against it."
_COMPARE = (
    "Name what is wrong or missing in either answer. An answer should be helpful, to the point and no longer than it "
    "needs to be."
)
_LABELS = (
    "End with one label: [[A>>B]] if A is much better, [[A>B]] if A is a little better, [[A=B]] if they are about "
    "equal, [[B>A]] if B is a little better, [[B>>A]] if B is much better."
)
_SYSTEMS = {
    "default": " ".join((_TASK, _SOLVE, _COMPARE, _LABELS)),
    "creative_writing": " ".join((_TASK, _COMPARE, "Value ideas that are new.", _LABELS)),
}
_TEMPLATE = (
    "--- prompt ---\n{QUESTION}\n--- end of prompt ---\n\n--- answer of assistant A ---\n{ANSWER_A}\n"
    "--- end of answer of assistant A ---\n\n--- answer of assistant B ---\n{ANSWER_B}\n"
    "--- end of answer of assistant B ---"
)
