"""What an actor's answer brings to the driver."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch

_PLAIN = frozenset({int, float, bool, str, bytes, type(None)})
"""types that hold nothing, of which most answers consist"""


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
