"""Tensors between actors: kept in the object store by who made them, passed on by reference.

A handle is a list that holds one reference: Ray resolves a bare reference among the arguments, and brings a small
result home to the driver; neither happens to what stands inside a list.
"""

from __future__ import annotations

from typing import Any

import ray

Handle = list[ray.ObjectRef]


def keep(value: Any) -> Handle:
    """Put a value into the object store."""
    return [ray.put(value)]


def fetch(handle: Handle, timeout: float) -> Any:
    """Take a value that another actor kept."""
    return ray.get(handle[0], timeout=timeout)
