"""The task of a prompt of the embedded world, read from its words alone: the inverse of `tasks.draw`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain

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
    "who": _any(world.ENTITIES),
    "label": _LABEL,
    "labels": f"(?:{_LABEL})(?: , (?:{_LABEL}))*(?: and (?:{_LABEL}))?",
    "count": _NUMBER,
    "first": _NUMBER,
    "last": _NUMBER,
    "category": _any(list(world.CATEGORIES)),
    "place": _any(PLACES),
    "mood": _any(world.MOODS),
    "food": _any(world.ATTRIBUTES["food"]),
    "harm": _any(world.HARMS),
    "thing": _any(list(world.GUARDIANS)),
    "when": _any(world.WHEN),
    "words": f"(?:{_THING})(?: (?:{_THING}))+",
    "filler": _any(world.FILLERS),
    "value": _any([*chain.from_iterable(world.ATTRIBUTES.values())]),
    "a": r"\d \d",
    "b": r"\d \d",
}
_TASK = TypeAdapter(Task)
_REFUSED = "meta.task is no task of the embedded world; leave it out, or send what the data source paddock wrote there"
_OPTIONAL = ("place", "when")


def _constraint_of_phrase() -> dict[str, tuple[str, str]]:
    constraints = {}
    for kind, phrases in CONSTRAINTS.items():
        for value, phrase in phrases.items():
            constraints[phrase] = (kind, value)
    return constraints


_WISH = _constraint_of_phrase()


def _pattern(template: str) -> re.Pattern[str]:
    """The template with a group for each placeholder; one that may stay empty includes the space before it."""
    parts = []
    for token in template.split():
        name = token.strip("{}")
        part = f" {re.escape(token)}" if token == name else f" (?P<{name}>{_FIELDS[name]})"
        parts.append(f"(?:{part})?" if name in _OPTIONAL else part)
    return re.compile("".join(parts).removeprefix(" "))


def _patterns(templates: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(_pattern(template) for template in templates)


_PATTERNS = {family: _patterns(templates) for family, templates in TEMPLATES.items()}
_CLARIFY = tuple(_patterns(templates) for templates in CLARIFY)
_STYLED = re.compile(
    re.escape(STYLED)
    .replace(r"\{text\}", "(?P<text>.*?)")
    .replace(r"\{wishes\}", f"(?P<wishes>(?:{_any(list(_WISH))})(?: , (?:{_any(list(_WISH))}))*)")
)


def checked(text: str) -> Task:
    """The task of a text that `Task.to_json` wrote, or that a client sent.

    Raises:
        InputError: the text is no task of this world.
    """
    try:
        task = _TASK.validate_json(text)
    except ValidationError as error:
        raise InputError(_REFUSED) from error
    domains = [s.domain for s in task.slots] or [task.domain]
    known_style = all(CONSTRAINTS.get(kind, {}).get(value) for kind, value in task.style.items())
    known_domains = all(domain in world.DOMAINS for domain in domains)
    if not (known_style and known_domains and task.category in ("", *world.CATEGORIES)):
        raise InputError(_REFUSED)
    return task


def task_of(text: str) -> Task | None:
    """The task of a prompt of the embedded world; None for other texts.

    Args:
        text: the dialogue's turns, separated by an empty line or ` / `; each may name its role before a colon. A system
            message (with its role, or one of the world's own wishes) is ignored.
    """
    turns = [" ".join(turn.split()) for turn in re.split(r"\n\s*\n| / ", text.strip())]
    turns = [t for t in turns if not t.startswith("system: ") and t not in world.WISHES.values()]
    turns = [re.sub(r"^(?:user|assistant): ", "", turn) for turn in turns]
    if not turns:
        return None
    request, wishes = bare_request(turns[-1])
    style = dict(sorted(_WISH[wish] for wish in wishes))
    task = _single(request) if len(turns) == 1 else _clarify([*turns[:-1], request])
    if task is None or len(style) < len(wishes) or ("form" in style and task.family not in LISTABLE):
        return None
    return replace(task, style=style)


def last_answer(text: str) -> str:
    """The answer that counts: of an answer with the turns that led to it, as `dialogue_text` writes them, the last."""
    return text.rpartition("\n\nassistant: ")[2]


def bare_request(text: str) -> tuple[str, list[str]]:
    """The request of a turn without the wishes named after it, and these."""
    match = _STYLED.fullmatch(text)
    return (match["text"], match["wishes"].split(" , ")) if match else (text, [])


def _single(text: str) -> Task | None:
    for family, patterns in _PATTERNS.items():
        match = _first_match(patterns, text)
        if match:
            task = build(family, match.groupdict(""))
            return task if task.slots or task.items or task.category else None
    return None


def _first_match(patterns: Iterable[re.Pattern[str]], text: str) -> re.Match[str] | None:
    matches = (pattern.fullmatch(text) for pattern in patterns)
    return next(filter(None, matches), None)


def _clarify(turns: list[str]) -> Task | None:
    if len(turns) != len(_CLARIFY):
        return None
    fields: Fields = {}
    for turn, patterns in zip(turns, _CLARIFY, strict=True):
        match = _first_match(patterns, turn)
        if match is None:
            return None
        fields |= match.groupdict("")
    return build("clarify", fields)
