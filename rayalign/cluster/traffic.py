"""What the answers of actors bring to the driver: records, and never a tensor of training."""

from __future__ import annotations

import time
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch

from rayalign.storage.events import EventLog

INTERVAL = 1.0
"""seconds between two entries of answers without tensors"""
_PLAIN = frozenset({int, float, bool, str, bytes, type(None)})
"""types that hold nothing, of which most answers consist"""


class Traffic:
    """The answers of one role, in the event log: at most once a second, and at once where one holds a tensor."""

    def __init__(self, role: str, events: EventLog) -> None:
        self._role = role
        self._events = events
        self._answers = 0
        """since the last entry"""
        self._written = 0.0
        """when that was"""

    def note(self, answer: Any) -> None:
        """Count one answer."""
        self._answers += 1
        arrays = arrays_in(answer)
        now = time.monotonic()
        if arrays or now - self._written >= INTERVAL:
            size = sum(array.nbytes for array in arrays)
            self._events.write("received", role=self._role, answers=self._answers, bytes=size, tensor=bool(arrays))
            self._answers, self._written = 0, now


def arrays_in(answer: Any) -> list[torch.Tensor | np.ndarray]:
    """Every tensor in an answer, in no particular order."""
    arrays: list[torch.Tensor | np.ndarray] = []
    # one list in the place of a generator for each value: an answer holds a hundred of them for each group
    pending = [answer]
    while pending:
        value = pending.pop()
        kind: Any = type(value)
        if _has_no_array(kind):
            continue
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list | tuple):
            if not all(map(_has_no_array, set(map(type, value)))):
                pending.extend(value)
        elif isinstance(value, torch.Tensor | np.ndarray):
            arrays.append(value)
        elif is_dataclass(kind):
            pending.extend(getattr(value, field.name) for field in fields(kind))
    return arrays


@cache
def _has_no_array(hint: Any) -> bool:
    """Whether a declared type leaves no room for an array: a plain one, or records and containers of such alone."""
    if hint in _PLAIN or get_origin(hint) is Literal:
        return True
    parts = [part for part in get_args(hint) if part is not ...]
    if parts:
        return all(map(_has_no_array, parts))
    return is_dataclass(hint) and all(map(_has_no_array, _declared(hint)))


def _declared(kind: Any) -> list[Any]:
    """The types of a dataclass's fields; Any where a name is imported for type checking only."""
    try:
        return list(get_type_hints(kind).values())
    except NameError:
        return [Any]
