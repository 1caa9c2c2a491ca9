from __future__ import annotations

import subprocess
import sys

import pytest

import rayalign

PUBLIC = [
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


def test_the_public_surface_is_this_and_sorted() -> None:
    assert rayalign.__all__ == sorted(PUBLIC) == dir(rayalign)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(rayalign, name)
    assert isinstance(value, str) or value.__module__.startswith("rayalign.")


def test_no_other_name_is() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        rayalign.Trainer  # noqa: B018


def test_importing_the_package_loads_nothing_of_it() -> None:
    heavy = ("rayalign.", "torch", "pydantic")
    program = f"import sys, rayalign; print([m for m in sys.modules if m.startswith({heavy})])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
