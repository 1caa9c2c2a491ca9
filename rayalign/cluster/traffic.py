"""What an actor's answer brings to the driver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch


def arrays_in(value: Any) -> Iterator[torch.Tensor | np.ndarray]:
    """Every tensor in an answer."""
    if isinstance(value, torch.Tensor | np.ndarray):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from arrays_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            if not isinstance(item, int | float | str):
                yield from arrays_in(item)
    elif is_dataclass(value):
        for item in fields(value):
            yield from arrays_in(getattr(value, item.name))
