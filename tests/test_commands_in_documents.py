"""Every command that a document shows exists, with every option that it shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from rayalign.cli import app

ROOT = Path(__file__).parents[1]
PLANS = ROOT / "docs" / "roadmap.md"
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *(ROOT / "docs").rglob("*.md")} - {PLANS})
_COMMAND = re.compile(r"(?:^|`|\$ )rayalign ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)*)([^`\n]*)", re.MULTILINE)
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def shown(text: str) -> list[tuple[str, str]]:
    """The words after `rayalign` and what follows them, of code alone."""
    code = "\n".join(line.strip() for line in re.findall(r"^ {4}.*$|`[^`\n]+`", text, re.MULTILINE))
    joined = re.sub(r"\\\n\s*", " ", code)
    return [(match[1], match[2].partition("  ")[0].partition("#")[0]) for match in _COMMAND.finditer(joined)]


def command_of(words: list[str]) -> tuple[Any, str]:
    """The deepest command that the words name, and its name."""
    command: Any = typer.main.get_command(app)
    names: list[str] = []
    for word in words:
        commands = getattr(command, "commands", {})
        if word not in commands:
            break
        command = commands[word]
        names.append(word)
    return command, " ".join(names)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_options_exist(path: Path) -> None:
    for words, rest in shown(path.read_text(encoding="utf-8")):
        command, name = command_of(words.split())
        is_group = hasattr(command, "commands")
        assert name and (not is_group or name == words), f"there is no rayalign {words}"
        options = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
        for option in _OPTION.findall(rest):
            assert option in options | {"--help"}, f"rayalign {name} {option}"


def test_there_are_commands_in_the_documents() -> None:
    commands = [words for path in DOCUMENTS for words, _ in shown(path.read_text(encoding="utf-8"))]
    assert len(commands) > 60
