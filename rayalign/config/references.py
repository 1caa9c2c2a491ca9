"""How a job names what an earlier stage made: `stage:NAME`, or `stage:NAME/ROLE` for one role that it trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

STAGE = "stage:"
ANNOTATOR = "annotator:"


@dataclass(frozen=True, slots=True)
class Reference:
    """An output of an earlier stage."""

    stage: str
    role: str = ""
    """empty: the stage's main output"""

    @classmethod
    def parse(cls, text: str) -> Reference | None:
        """The reference that a value holds; None for a folder, a hub name or anything else."""
        if not text.startswith(STAGE):
            return None
        stage, _, role = text.removeprefix(STAGE).partition("/")
        return cls(stage, role)

    def __str__(self) -> str:
        return f"{STAGE}{self.stage}/{self.role}" if self.role else f"{STAGE}{self.stage}"


def references_in(value: Any, key: str = "") -> Iterator[tuple[str, Reference]]:
    """Dotted key and reference of every `stage:` text in nested mappings and lists."""
    if isinstance(value, str):
        reference = Reference.parse(value)
        if reference is not None:
            yield key, reference
        return
    for name, item in _items(value):
        yield from references_in(item, f"{key}.{name}" if key else str(name))


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
