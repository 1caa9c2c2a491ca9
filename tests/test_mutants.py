"""The table of mutants fits the code: each old text occurs once, and each named test exists."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.mutants import LIBRARIES, Mutant, broken, load_mutants
from rayalign.errors import InputError

ROOT = Path(__file__).parents[1]
MUTANTS = load_mutants()
POINTS = 40


def by_point(mutant: Mutant) -> str:
    return f"{mutant.point}-{mutant.file}"


def test_every_point_is_there_in_order() -> None:
    points = [mutant.point for mutant in MUTANTS]
    assert points == sorted(points)
    assert set(points) == set(range(1, POINTS + 1))


@pytest.mark.parametrize("mutant", MUTANTS, ids=by_point)
def test_the_old_text_occurs_once_and_the_new_one_is_python(mutant: Mutant) -> None:
    source = (ROOT / "rayalign" / mutant.file).read_text(encoding="utf-8")
    changed = broken(mutant, source)
    assert changed != source
    ast.parse(changed)


@pytest.mark.parametrize("mutant", MUTANTS, ids=by_point)
def test_the_named_tests_exist(mutant: Mutant) -> None:
    assert mutant.tests
    for test in mutant.tests:
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name.partition("[")[0] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("source", "count"), [("x = 2", 0), ("x = 1; x = 1", 2)])
def test_a_text_that_does_not_occur_once_is_refused(source: str, count: int) -> None:
    mutant = Mutant(7, "x is one", "ops.py", "x = 1", "x = 3", ("tests/test_x.py::test_x",))
    with pytest.raises(InputError, match=rf"point 7: its old text occurs {count} times in rayalign/ops\.py, not once"):
        broken(mutant, source)


def test_what_every_mutant_needs_is_installed() -> None:
    assert all(find_spec(library) for library in LIBRARIES)
