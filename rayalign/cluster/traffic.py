"""What an actor's answer brings to the driver."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

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
        if kind in _PLAIN:
            continue
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list | tuple):
            if not _PLAIN.issuperset(map(type, value)):
                pending.extend(value)
        elif isinstance(value, torch.Tensor | np.ndarray):
            arrays.append(value)
        else:
            pending.extend(getattr(value, name) for name in _names(kind))
    return arrays


@cache
def _names(kind: Any) -> tuple[str, ...]:
    """The fields of a dataclass; none of another type."""
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()
