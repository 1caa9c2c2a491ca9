"""What is wrong with a section, in sentences a user can act on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError

Location = tuple[int | str, ...]


def explain(
    error: ValidationError, model: type[BaseModel], where: str, origins: Mapping[str, str] | None = None
) -> str:
    """One line for each problem: where it is, what was given, what is expected.

    Args:
        error: what pydantic raised.
        model: the section that was validated.
        where: names the input where `origins` does not say more, such as a file.
        origins: dotted key -> `file:line` or `command line`.
    """
    return "\n".join(_sentence(problem, model, where, origins or {}) for problem in error.errors(include_url=False))


def origin_of(key: str, origins: Mapping[str, str], default: str) -> str:
    """Where a dotted key was written, else its nearest written parent."""
    while key:
        if key in origins:
            return origins[key]
        key = key.rpartition(".")[0]
    return default


def _sentence(problem: Any, model: type[BaseModel], where: str, origins: Mapping[str, str]) -> str:
    location: Location = problem["loc"]
    written, parent = _walk(location, model)
    if problem["type"].startswith("union_tag"):
        written = [*written, problem["ctx"]["discriminator"].strip("'")]
    # pydantic marks a refused key of a mapping so
    key = ".".join(str(part) for part in written if part != "[key]")
    text = _describe(problem, parent, key.rpartition(".")[0])
    return f"{origin_of(key, origins, where)}: {key} {text}" if key else f"{where}: {text.removeprefix('is refused: ')}"


def _describe(problem: Any, parent: Any, section: str) -> str:
    kind, context, value = problem["type"], problem.get("ctx", {}), problem["input"]
    if kind == "extra_forbidden":
        return f"is not known; {_nearest_key(str(problem['loc'][-1]), known_keys(parent), section)}"
    if kind == "missing":
        return "is missing"
    if kind == "union_tag_not_found":
        kinds = [t for t, _ in _tags(parent)]
        return f"is missing; expected one of {', '.join(kinds)}"
    if kind == "union_tag_invalid":
        tags = [t.strip(" '") for t in context["expected_tags"].split(",")]
        return f"is {context['tag']!r}; {nearest(context['tag'], tags, 'expected one of')}"
    if kind == "literal_error":
        allowed = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return f"is {_short(value)}; {nearest(str(value), allowed, 'expected one of')}"
    if kind in ("value_error", "assertion_error"):
        said = "is refused" if isinstance(value, Mapping) else f"is {_short(value)}"
        return f"{said}: {context['error']}"
    if kind == "too_short":
        return f"is {_short(value)}; expected at least {context['min_length']} of them"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"is {_short(value)}; expected a mapping of keys to values"
    expected = problem["msg"].removeprefix("Input should be ").split(", unable to")[0]
    number = "a number " if expected.startswith(("greater", "less")) else ""
    expected = expected.replace("valid tuple", "list")
    return f"is {_short(value)}; expected {number}{expected[0].lower()}{expected[1:]}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(given: str, known: Sequence[str], otherwise: str = "known:") -> str:
    """The remedy for a name that is not known."""
    near = get_close_matches(given, known, n=1)
    return f"did you mean {near[0]}?" if near else f"{otherwise} {', '.join(known) or 'none'}"


def words(problem: Mapping[str, Any]) -> str:
    """What pydantic says of a problem, without its mark of a validator of ours."""
    return str(problem["msg"]).removeprefix("Value error, ")


def _nearest_key(given: str, known: Sequence[str], section: str) -> str:
    near = get_close_matches(given, known, n=1) or [k for k in known if k.rpartition(".")[2] == given]
    if near:
        return f"did you mean {section}{'.' if section else ''}{near[0]}?"
    return f"known: {', '.join(k for k in known if '.' not in k)}"


def known_keys(model: Any) -> list[str]:
    """The keys of a section, then those one section further down as `inner.key`."""
    if not _is_model(model):
        return []
    own, further_down = [], []
    for name, field in model.model_fields.items():
        own.append(name)
        section = _plain(field.annotation)
        if _is_model(section):
            further_down += [f"{name}.{key}" for key in section.model_fields]
    return own + further_down


def _walk(location: Location, model: Any) -> tuple[list[int | str], Any]:
    """The location as the user wrote it (without the tags of unions), and the type that holds its last part."""
    written: list[int | str] = []
    here, parent = model, model
    for part in location:
        here = _plain(here)
        tagged = dict(_tags(here))
        if part in tagged:
            here = parent = tagged[str(part)]
            continue
        written.append(part)
        parent, here = here, _inside(here, part)
    return written, here if _tags(here) else parent


def _inside(kind: Any, part: int | str) -> Any:
    if _is_model(kind):
        field = kind.model_fields.get(part)
        return field.annotation if field else None
    arguments = get_args(kind)
    return arguments[-1] if get_origin(kind) is dict else arguments[0] if arguments else None


def _plain(kind: Any) -> Any:
    """The type without its annotations and without None."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        members = [m for m in get_args(kind) if m is not type(None)]
        return _plain(members[0]) if len(members) == 1 else kind
    return kind


def _tags(kind: Any) -> list[tuple[str, Any]]:
    """The members of a union told apart by `kind`, or by a `Tag` of their own, each with its tag."""
    kind = _plain(kind)
    if get_origin(kind) not in (Union, UnionType):
        return []
    tags: list[tuple[str, Any]] = []
    for member in get_args(kind):
        if _is_model(member):
            tags.append((get_args(member.model_fields["kind"].annotation)[0], member))
        elif get_origin(member) is Annotated:
            tags += [(mark.tag, member) for mark in get_args(member) if isinstance(mark, Tag)]
    return tags


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
