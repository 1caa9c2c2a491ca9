"""The JSON schema of a job file, with the text of every field.

The text of a field is the string below it in the source. It is read when a schema is asked for: pydantic's own way
reads all sources while the sections are made, and so slows down every command.
"""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from rayalign.config.section import Section
from rayalign.config.stages import WrittenJob

ALGORITHM = "algorithm"
_OWN_ALGORITHM = {
    "description": "An algorithm of your own, with its settings.",
    "type": "object",
    "properties": {"name": {"type": "string", "pattern": ":", "description": "package.module:Class"}},
    "required": ["name"],
}


def job_schema(algorithms: Mapping[str, type[Section]]) -> dict[str, Any]:
    """The schema of a job file; `algorithms` are the settings of each algorithm by its name."""
    schema = WrittenJob.model_json_schema()
    schema["$defs"]["OwnAlgorithm"] = _OWN_ALGORITHM
    for name, settings in algorithms.items():
        schema["$defs"][settings.__name__] = _algorithm_schema(name, settings)
    _describe(schema)
    choices = [{"$ref": f"#/$defs/{settings.__name__}"} for settings in algorithms.values()]
    choices.append({"$ref": "#/$defs/OwnAlgorithm"})
    for section in (schema["$defs"]["TrainStage"], schema["$defs"]["MixConfig"]):
        text = section["properties"][ALGORITHM]["description"]
        section["properties"][ALGORITHM] = {"anyOf": choices, "description": text}
    return schema


def sparse_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a file that may leave out what it inherits by `extends`, and remove a stage by null."""
    sparse = copy.deepcopy(dict(schema))
    extended = {"type": "string", "description": "another job file, relative to this one, whose values it takes over"}
    sparse["properties"] = {"extends": extended, **sparse["properties"]}
    del sparse["required"]
    for part in sparse["$defs"].values():
        if "kind" in part["properties"]:
            part.pop("required", None)
    for holder in (sparse, sparse["$defs"]["LoopConfig"]):
        (stage,) = holder["properties"]["stages"]["patternProperties"].values()
        del stage["discriminator"]
        stage["anyOf"] = [*stage.pop("oneOf"), {"type": "null"}]
    return sparse


def _algorithm_schema(name: str, settings: type[Section]) -> dict[str, Any]:
    schema = settings.model_json_schema()
    schema["properties"]["name"] = {"const": name}
    return schema


def _describe(schema: dict[str, Any]) -> None:
    """Add its text to every field."""
    sections = {section.__name__: section for section in _subsections(Section)}
    for name, part in {**schema["$defs"], WrittenJob.__name__: schema}.items():
        if name in sections:
            texts = field_texts(sections[name])
            for field, field_schema in part["properties"].items():
                field_schema["description"] = texts[field]


def field_texts(section: type[Section]) -> dict[str, str]:
    """The text of each field; without one of its own, that of the section that it holds, or of the class before."""
    texts: dict[str, str] = {}
    for base in reversed(section.__mro__):
        if issubclass(base, Section) and base is not Section:
            texts |= _own_texts(base)
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            texts.setdefault(name, _first_line(field.annotation))
        if name == "kind":
            texts[name] = _first_line(section)
    return texts


def _own_texts(section: type[Section]) -> dict[str, str]:
    """The texts below the fields that a class itself adds."""
    source = textwrap.dedent(inspect.getsource(section))
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.ClassDef)
    texts: dict[str, str] = {}
    field = None
    for node in definition.body:
        text = _text_of(node)
        if field is not None and text is not None:
            texts[field] = text
        field = _field_of(node)
    return texts


def _field_of(node: ast.stmt) -> str | None:
    """The name of the field that a statement defines, if it defines one."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id
    return None


def _text_of(node: ast.stmt) -> str | None:
    """What a statement says, where it is nothing but a text."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return None
    text = node.value.value
    return inspect.cleandoc(text) if isinstance(text, str) else None


def _first_line(section: type[Section]) -> str:
    return (section.__doc__ or "").partition("\n")[0]


def _subsections(section: type[Section]) -> Iterator[type[Section]]:
    for subsection in section.__subclasses__():
        yield subsection
        yield from _subsections(subsection)
