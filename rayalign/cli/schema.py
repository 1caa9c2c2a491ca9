"""`rayalign schema`: every key of a job file, for editors and as a page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

HEAD = """# Every key of a job

`rayalign schema --markdown` prints this page. `rayalign schema` prints the same as JSON schema, with which an editor
completes and checks a job file. [jobs.md](jobs.md) explains how the keys work together.
"""


def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/reference.md instead.")] = False,
) -> None:
    """Print the JSON schema of a job file, for editors: every key with its text, type and default."""
    from rayalign.algorithms.base import algorithm_names, load
    from rayalign.config.schema import job_schema, sparse_schema

    algorithms = {name: type(load({"name": name}).config) for name in algorithm_names()}
    whole = job_schema(algorithms)
    typer.echo(page(whole) if markdown else json.dumps(sparse_schema(whole), indent=2))


def page(whole: Mapping[str, Any]) -> str:
    """The schema as a page in Markdown."""
    parts = [HEAD, *_section("Job", whole)]
    for name, part in sorted(whole["$defs"].items()):
        parts.extend(_section(name, part))
    return "\n".join(parts)


def _section(name: str, part: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {name}\n"
    yield f"{part['description']}\n"
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for key, field in part["properties"].items():
        cells = [f"`{key}`", _type(field), _default(key, field, part), field.get("description", "")]
        yield "| " + " | ".join(_cell(text) for text in cells) + " |"
    yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _default(key: str, field: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    if key in part.get("required", ()):
        return "required"
    default = field.get("default")
    return "" if "const" in field or isinstance(default, dict) else f"`{json.dumps(default)}`"


def _type(field: Mapping[str, Any]) -> str:
    """The type of a field in words, with links to the sections that it may hold."""
    choices = field.get("anyOf") or field.get("oneOf")
    if choices:
        return " or ".join(_type(choice) for choice in choices)
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        items = field.get("items")
        return f"list of {_type(items)}" if items else "list"
    if field.get("type") == "object":
        values = field.get("additionalProperties")
        return f"mapping to {_type(values)}" if isinstance(values, dict) else "mapping"
    return str(field.get("type", "any"))
