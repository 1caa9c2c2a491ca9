"""Prompts of judges: templates in alpaca_eval's format, filled so that no text leaves its slot.

A template holds {instruction} {input} {output_1} {output_2}, each once for every pair of a batch, and perhaps
{criterion}: what the prompt's preferences compare answers by. ChatML marks make it a dialogue. The turns are read from
the template before any text is put in, and all slots are filled in one pass, so that a placeholder or a chat tag
inside a text is a text. What models might still read as the end of a slot is broken by one zero-width joint (U+2060)
after its beginning:

    chat tags such as <|im_end|>, </s>, [INST]                       in every template
    three quotes or backticks                                        where the template puts them around a slot
    a line that equals the template's line before or after a slot    where the slot stands on lines of its own

Any other text goes in byte for byte.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from rayalign.annotator.completer import ChatMessage
from rayalign.config import nearest
from rayalign.dialogues import dialogue_text
from rayalign.errors import InputError
from rayalign.types import Prompt

JOINT = "\u2060"
SLOTS = ("instruction", "input", "output_1", "output_2", "criterion")
_SLOT = re.compile(rf"\{{({'|'.join(SLOTS)})\}}")
_START, _END = "<|im_start|>", "<|im_end|>"
_ROLES = ("system", "user", "assistant", "developer")
_TAG = re.compile(
    r"([<\[])(?=\|[^\s|<>]{1,64}\|>|\uff5c[^\s\uff5c<>]{1,64}\uff5c>|/?s>|/?INST\]|</?SYS>>|(?:start|end)_of_turn>|[be]os>)"
)
_FENCES = ('"""', "'''", "```")


class _Turn(NamedTuple):
    head: Mapping[str, str]
    """role, and the name that a system turn may bear"""
    text: str


class Template:
    """A prompt template for batches of one size."""

    def __init__(self, text: str, *, batch_size: int = 1) -> None:
        """InputError when the template can't be filled for so many pairs."""
        self.text = text.strip()
        self.batch_size = batch_size
        _check_slots(self.text, batch_size)
        self._turns = _turns(self.text) if _START in self.text else ()
        self._delimiters = _delimiters(self.text)

    def fill(self, rows: Sequence[Mapping[str, str]]) -> str:
        """The prompt as one text, for an endpoint that continues texts.

        Args:
            rows: `batch_size` rows, each with a text for every slot's name that the template holds.
        """
        return self._filler(rows)(self.text).strip()

    def messages(self, rows: Sequence[Mapping[str, str]]) -> list[ChatMessage]:
        """The prompt as a dialogue: the template's turns, or one user's turn where it has no ChatML marks."""
        put = self._filler(rows)
        if not self._turns:
            return [{"role": "user", "content": put(self.text).strip()}]
        return [{**turn.head, "content": put(turn.text).strip()} for turn in self._turns]

    def escape(self, text: str) -> str:
        """A text as it goes into a slot; unchanged unless it holds one of the delimiters."""
        for delimiter, broken in self._delimiters:
            text = delimiter.sub(broken, text)
        return text

    def _filler(self, rows: Sequence[Mapping[str, str]]) -> Callable[[str], str]:
        if len(rows) != self.batch_size:
            raise ValueError(f"{len(rows)} rows for a template of {self.batch_size}")
        met: Counter[str] = Counter()

        def slot(match: re.Match[str]) -> str:
            name = match[1]
            met[name] += 1
            return self.escape(rows[met[name] - 1][name])

        return lambda text: _SLOT.sub(slot, text)


def packaged() -> list[str]:
    """Names of the templates that come with the package."""
    return sorted(f.name.removesuffix(".txt") for f in _home().iterdir() if f.name.endswith(".txt"))


def load_template(name_or_path: str) -> str:
    """The text of a packaged template or of a file. InputError when there is neither."""
    if name_or_path in packaged():
        return (_home() / f"{name_or_path}.txt").read_text(encoding="utf-8")
    try:
        return Path(name_or_path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"template: {name_or_path!r} is neither a file nor a packaged template; {nearest(name_or_path, packaged())}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"template: {name_or_path!r} cannot be read ({error}); give a UTF-8 text file") from error


def fenced(text: str) -> str:
    """A text as it may stand between triple double quotes of a prompt that is no template."""
    for delimiter, broken in ((_TAG, rf"\1{JOINT}"), _fence(_FENCES[0])):
        text = delimiter.sub(broken, text)
    return text


def instruction_of(prompt: Prompt) -> str:
    """The instruction as judges read it: the one turn, or all turns with their roles."""
    return dialogue_text(prompt.messages)


def _home() -> Traversable:
    return files("rayalign.annotator") / "templates"


def _check_slots(text: str, batch_size: int) -> None:
    counts = Counter(re.findall(r"\{(\w+)\}", text))
    for name in counts:
        if name not in SLOTS:
            raise InputError(f"template: {{{name}}} is no placeholder; {nearest(name, SLOTS)}")
    for name in SLOTS:
        allowed = (batch_size,) if name.startswith("output") else (0, batch_size)
        if counts[name] not in allowed:
            raise InputError(
                f"template: {{{name}}} stands {counts[name]} times; each placeholder must stand once for every "
                f"pair of a batch (batch_size {batch_size})"
            )
    if touching := re.search(_SLOT.pattern * 2, text):
        raise InputError(f"template: something must stand between the placeholders {touching[0]}")


def _turns(text: str) -> tuple[_Turn, ...]:
    if not text.startswith(_START) or not text.endswith(_END):
        raise InputError(f"template: a dialogue must begin with {_START} and end with {_END}")
    turns = []
    for part in text.split(_START)[1:]:
        head, _, rest = part.partition("\n")
        role, *extra = head.split() or [""]
        if role not in _ROLES or not all("=" in item for item in extra):
            raise InputError(
                f"template: {head.strip()!r} after {_START} is no role; expected one of {', '.join(_ROLES)}"
            )
        content, end, between = rest.partition(_END)
        if not end or _SLOT.search(between):
            raise InputError(
                f"template: a {role} turn is not closed by {_END}, or a placeholder stands outside the turns"
            )
        turns.append(_Turn({"role": role, **dict(item.split("=", 1) for item in extra)}, content))
    return tuple(turns)


def _fence(fence: str) -> tuple[re.Pattern[str], str]:
    """What ends a slot between these quotes, and its replacement."""
    two = fence[:2]
    return re.compile(f"{two}(?={fence[0]})"), two + JOINT


def _delimiters(text: str) -> list[tuple[re.Pattern[str], str]]:
    """The texts that may not stand in a slot of this template, each with its replacement."""
    delimiters = [(_TAG, rf"\1{JOINT}")]
    for fence in _FENCES:
        if re.search(rf"{fence}\s*{_SLOT.pattern}|{_SLOT.pattern}\s*{fence}", text):
            delimiters.append(_fence(fence))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marks = set()
    for before, line, after in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        if _SLOT.fullmatch(line):
            marks |= {mark for mark in (before, after) if re.search(r"[^\W\d_]", mark) and not _SLOT.search(mark)}
    if marks:
        options = "|".join(re.escape(mark) for mark in sorted(marks))
        delimiters.append(
            (re.compile(rf"^([ \t]*)(?=(?:{options})[ \t\r]*$)(.)", re.MULTILINE | re.IGNORECASE), rf"\1\2{JOINT}")
        )
    return delimiters
