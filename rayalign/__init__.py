"""Aligning language models with human feedback: one system from a laptop to a GPU cluster.

A study is a job: its stages, and where their data and models come from. It is a YAML file, or a mapping with the same
keys.

    import rayalign

    job = {
        "name": "first",
        "data": {"path": "pairs.jsonl"},  # the format of its rows is recognised
        "stages": {
            "sft": {"kind": "train", "algorithm": {"name": "sft"}, "model": "my/model"},
            "dpo": {"kind": "train", "algorithm": {"name": "dpo"}, "model": "stage:sft"},
        },
    }
    rayalign.check(job)         # raises InputError, one line for each problem
    print(rayalign.plan(job))   # what would run where, how large, and what is finished already
    folder = rayalign.run(job)  # runs it or resumes it: models, records, summary.json, report.html
    rayalign.write_report(folder)

`check`, `plan`, `run` and `write_report` take a job as a LoadedJob, as the path of its file, or as a mapping.
`load_job(path, ["seed=3"])` reads a file with overrides, and says where each value was written. `load_algorithm` makes
an algorithm from its settings, to be used without any stage. Every error is a RayalignError; InputError is what the
user can mend.

Shell: `rayalign --help`. Guide: docs/jobs.md; own algorithms, scorers, environments and readers: docs/extending.md.

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
    from rayalign.pipeline.api import check, plan, run, write_report

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
        "check": ("rayalign.pipeline.api", "check"),
        "load_algorithm": ("rayalign.algorithms.base", "load"),
        "load_job": ("rayalign.config", "load_job"),
        "plan": ("rayalign.pipeline.api", "plan"),
        "run": ("rayalign.pipeline.api", "run"),
        "write_report": ("rayalign.pipeline.api", "write_report"),
    }
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
