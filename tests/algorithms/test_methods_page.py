"""The table of docs/methods.md: one row for each algorithm, with its roles and its defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayalign.algorithms.base import algorithm_names, load
from rayalign.config import BeamConfig, BestOf, SamplingConfig, Section

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
COLUMNS = ["method", "formula", "data", "roles", "defaults", "source"]
LINES = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES]
METHODS = {row[0].strip("`"): dict(zip(COLUMNS, row, strict=True)) for row in ROWS[2:]}
DECODING: dict[str, type[Section]] = {
    "greedy, drawing, top-k, top-p": SamplingConfig,
    "beam search, diverse beam search": BeamConfig,
    "best-of-n, reranking by any scorer": BestOf,
}
UNLISTED = {
    "aggregation", "correction_kind", "epochs", "kl_horizon", "kl_target", "max_rejections", "no_std",
    "published_arithmetic", "whiten_advantages",
}  # fmt: skip
"""settings of an algorithm's own that reference.md alone lists, or the methods that they are for"""


def settings(cell: str) -> dict[str, Any]:
    """The keys in backticks with their values."""
    values: dict[str, Any] = {}
    for text in re.findall(r"`(\w+: [^`]+)`", cell):
        values |= yaml.safe_load(text)
    return values


def test_it_is_one_table_with_a_row_for_each_algorithm() -> None:
    assert ROWS[0] == COLUMNS
    assert set(algorithm_names()) <= METHODS.keys()
    assert {"Dr. GRPO", "DAPO", "cDPO", "rDPO"} <= METHODS.keys()
    assert len(METHODS) == len(ROWS) - 2
    for name in algorithm_names():
        assert all(METHODS[name].values()), name


@pytest.mark.parametrize("name", algorithm_names())
def test_the_roles_are_those_of_the_code(name: str) -> None:
    algorithm = load({"name": name})
    cell = METHODS[name]["roles"]
    assert all(role in cell for role in algorithm.roles)
    optional = name == "rrhf"  # its reference comes with a KL
    assert optional or ("reference" in cell) == ("reference" in algorithm.roles)


@pytest.mark.parametrize("name", algorithm_names())
def test_the_defaults_are_those_of_the_code(name: str) -> None:
    config = load({"name": name}).config
    written = settings(METHODS[name]["defaults"])
    assert written == {key: getattr(config, key) for key in written}
    own_settings = type(config).__annotations__.keys() - UNLISTED
    assert own_settings <= written.keys()


@pytest.mark.parametrize(("name", "section"), DECODING.items(), ids=lambda value: str(value)[:20])
def test_the_defaults_of_decoding_are_those_of_the_code(name: str, section: type[Section]) -> None:
    written = settings(METHODS[name]["defaults"])
    assert written == {key: section.model_fields[key].default for key in written}
    assert written
