"""Every algorithm says in its file what it computes, and where that was published."""

from __future__ import annotations

import inspect
import re

import pytest

from rayalign.algorithms.base import algorithm_names, load

SOURCE = re.compile(r"[A-Z][a-z]+ (?:19|20)\d\d\b|arXiv \d{4}\.\d{5}")
FORMULA = re.compile(r"`[^`]*(?:log|min|max|sigmoid|\^2)[^`]*`")


@pytest.mark.parametrize("name", algorithm_names())
def test_an_algorithm_has_its_source_and_its_formula(name: str) -> None:
    kind = type(load({"name": name}))
    module = inspect.getmodule(kind)
    assert module is not None and module.__doc__ and kind.__doc__
    assert SOURCE.search(f"{module.__doc__} {kind.__doc__}")
    assert FORMULA.search(kind.__doc__)
