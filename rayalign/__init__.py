"""Aligning language models with human feedback: one system from a laptop to a GPU cluster.

Everything here is loaded on first use, so that `import rayalign` costs nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayalign.algorithms.base import load as load_algorithm
    from rayalign.config import LoadedJob, load_job
    from rayalign.errors import InputError, RayalignError
    from rayalign.pipeline.checks import check
    from rayalign.pipeline.plan import plan
    from rayalign.pipeline.runner import run
    from rayalign.storage.report import write_report

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "LoadedJob",
    "RayalignError",
    "__version__",
    "check",
    "load_algorithm",
    "load_job",
    "plan",
    "run",
    "write_report",
]

_HOMES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "InputError": ("rayalign.errors", "InputError"),
        "LoadedJob": ("rayalign.config", "LoadedJob"),
        "RayalignError": ("rayalign.errors", "RayalignError"),
        "check": ("rayalign.pipeline.checks", "check"),
        "load_algorithm": ("rayalign.algorithms.base", "load"),
        "load_job": ("rayalign.config", "load_job"),
        "plan": ("rayalign.pipeline.plan", "plan"),
        "run": ("rayalign.pipeline.runner", "run"),
        "write_report": ("rayalign.storage.report", "write_report"),
    }
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
