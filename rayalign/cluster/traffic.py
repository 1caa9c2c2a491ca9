"""What an actor's answer brings to the driver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

_PLAIN = frozenset({int, float, str})
"""types of the tokens and log-probs that most answers consist of"""


def arrays_in(value: Any) -> Iterator[torch.Tensor | np.ndarray]:
    """Every tensor in an answer."""
    if isinstance(value, torch.Tensor | np.ndarray):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from arrays_in(item)
    elif isinstance(value, list | tuple):
        if not _PLAIN.issuperset(map(type, value)):
            for item in value:
                yield from arrays_in(item)
    elif is_dataclass(value):
        for name in _names(value.__class__):
            yield from arrays_in(getattr(value, name))


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
