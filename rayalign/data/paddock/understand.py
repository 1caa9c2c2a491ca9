"""What a prompt of the embedded world asks for, read from its words alone: the inverse of `tasks.draw`."""

from __future__ import annotations

import re
from dataclasses import replace

from pydantic import TypeAdapter, ValidationError

from rayalign.data.paddock import world
from rayalign.data.paddock.tasks import CLARIFY, CONSTRAINTS, LISTABLE, PLACES, STYLED, TEMPLATES, Fields, Task, build
from rayalign.errors import InputError


def _any(words: tuple[str, ...] | list[str]) -> str:
    return "|".join(re.escape(word) for word in words if word)


_LABEL = _any(list(world.ATTRIBUTES))
_NUMBER = _any(world.NUMBERS)
_THING = _any(sorted(world.DOMAINS["things"]))
_FIELDS = {
    "who": _any(world.ENTITIES), "label": _LABEL, "labels": f"(?:{_LABEL})(?: , (?:{_LABEL}))*(?: and (?:{_LABEL}))?",
    "count": _NUMBER, "first": _NUMBER, "last": _NUMBER, "category": _any(list(world.CATEGORIES)),
    "place": _any(PLACES), "mood": _any(world.MOODS), "food": _any(world.ATTRIBUTES["food"]),
    "harm": _any(world.HARMS), "thing": _any(list(world.GUARDIANS)), "when": _any(world.WHEN),
    "words": f"(?:{_THING})(?: (?:{_THING}))+", "filler": _any(world.FILLERS),
    "value": _any([value for values in world.ATTRIBUTES.values() for value in values]), "a": r"\d \d", "b": r"\d \d",
}  # fmt: skip
_TASK = TypeAdapter(Task)
_REFUSED = "meta.task is no task of the embedded world; leave it out, or send what the data source paddock wrote there"
_OPTIONAL = ("place", "when")
_WISH = {phrase: (kind, value) for kind, values in CONSTRAINTS.items() for value, phrase in values.items()}


def _pattern(template: str) -> re.Pattern[str]:
    """The template with a group in the stead of each place; a place that may stay empty takes its space with it."""
    parts = []
    for token in template.split():
        name = token.strip("{}")
        part = f" {re.escape(token)}" if token == name else f" (?P<{name}>{_FIELDS[name]})"
        parts.append(f"(?:{part})?" if name in _OPTIONAL else part)
    return re.compile("".join(parts).removeprefix(" "))


_PATTERNS = tuple((family, _pattern(template)) for family, templates in TEMPLATES.items() for template in templates)
_CLARIFY = tuple(tuple(_pattern(template) for template in templates) for templates in CLARIFY)
_STYLED = re.compile(
    re.escape(STYLED)
    .replace(r"\{text\}", "(?P<text>.*?)")
    .replace(r"\{wishes\}", f"(?P<wishes>(?:{_any(list(_WISH))})(?: , (?:{_any(list(_WISH))}))*)")
)


def checked(text: str) -> Task:
    """The task that `Task.to_json` wrote, from a hand that need not be ours.

    Raises:
        InputError: it is no task of this world.
    """
    try:
        task = _TASK.validate_json(text)
    except ValidationError as error:
        raise InputError(_REFUSED) from error
    domains = [s.domain for s in task.slots] or [task.domain]
    asked = all(CONSTRAINTS.get(kind, {}).get(value) for kind, value in task.style.items())
    if not (asked and all(d in world.DOMAINS for d in domains) and task.category in ("", *world.CATEGORIES)):
        raise InputError(_REFUSED)
    return task


def task_of(text: str) -> Task | None:
    """The task of a prompt of the embedded world, or None where the text is none of its prompts.

    Args:
        text: the dialogue's turns, parted by an empty line or ` / `; each may name its role before a colon. A system
            message (with its role, or one of the world's own wishes) is passed over.
    """
    turns = [" ".join(turn.split()) for turn in re.split(r"\n\s*\n| / ", text.strip())]
    turns = [t for t in turns if not t.startswith("system: ") and t not in world.WISHES.values()]
    turns = [re.sub(r"^(?:user|assistant): ", "", turn) for turn in turns]
    if not turns:
        return None
    request, wishes = _styled(turns[-1])
    style = dict(sorted(_WISH[wish] for wish in wishes))
    task = _single(request) if len(turns) == 1 else _clarify([*turns[:-1], request])
    if task is None or len(style) < len(wishes) or ("form" in style and task.family not in LISTABLE):
        return None
    return replace(task, style=style)


def _styled(text: str) -> tuple[str, list[str]]:
    """The bare request, and the wishes named after it."""
    found = _STYLED.fullmatch(text)
    return (found["text"], found["wishes"].split(" , ")) if found else (text, [])


def _single(text: str) -> Task | None:
    for family, pattern in _PATTERNS:
        if found := pattern.fullmatch(text):
            task = build(family, found.groupdict(""))
            return task if task.slots or task.items or task.category else None
    return None


def _clarify(turns: list[str]) -> Task | None:
    if len(turns) != len(_CLARIFY):
        return None
    fields: Fields = {}
    for turn, patterns in zip(turns, _CLARIFY, strict=True):
        found = next((m for p in patterns if (m := p.fullmatch(turn))), None)
        if found is None:
            return None
        fields |= found.groupdict("")
    return build("clarify", fields)
