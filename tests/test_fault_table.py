"""Cells of several runs of `make test-faults` in one table."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults import PAGE, load, merge, section
from benchmarks.pages import replace_section

NOTHING = {"runs": {}, "cells": {}}


def row(role: str, phase: str, kind: str, seconds: float, reason: str = "") -> dict[str, object]:
    outcome = "replaced" if reason else "went on"
    fields = {"outcome": outcome, "reason": reason, "noticed": 2.0, "seconds": seconds}
    return {"role": role, "phase": phase, "kind": kind} | fields


def test_a_later_run_replaces_its_own_cells_and_keeps_the_others() -> None:
    lost = row("reward", "update", "kill", 9.0, "reward (pid 7) died")
    first = {"time": "1", "machine": {"load_at_end": 3.2}, "starts": 2}
    second = {"time": "2", "machine": {"load_at_end": 0.4}, "starts": 1, "difference": 0.0}
    content = merge(NOTHING, [lost, row("critic", "publish", "slow", 4.0)], first)
    content = merge(content, [row("critic", "publish", "slow", 6.0)], second)
    lines = section(content).splitlines()
    assert "| reward | update | replaced, named after 2 s, 9 s | - | - | - |" in lines
    assert "| critic | publish | - | - | went on, 6 s | - |" in lines
    assert "| publish | - |" in lines
    assert "- 1: 1 cells, load 3 at the end, 2 starts" in lines
    assert "- 2: 1 cells, load 0 at the end, one start, weights bit-equal to an undisturbed run" in lines


def test_a_full_disk_strikes_all_roles_at_once_and_has_a_table_by_phase() -> None:
    full = row("disk", "update", "full", 21.0, "no space left on /runs")
    lines = section(merge(NOTHING, [full | {"outcome": "ended"}], {"time": "1", "machine": {}})).splitlines()
    assert "| phase | the disk is full |" in lines
    assert "| update | ended, named after 2 s, 21 s |" in lines


def test_a_run_without_cells_of_its_own_is_forgotten() -> None:
    content = merge(NOTHING, [row("critic", "publish", "slow", 4.0)], {"time": "1", "machine": {}})
    content = merge(content, [row("critic", "publish", "slow", 6.0)], {"time": "2", "machine": {}})
    assert list(content["runs"]) == ["2"]


def test_the_page_has_the_table_of_the_committed_results() -> None:
    assert section(load()) in PAGE.read_text()


def test_a_section_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a: generated -->\nold\n<!-- a: end -->\nafter\n")
    replace_section(page, "a", "new")
    assert page.read_text() == "before\n<!-- a: generated -->\n\nnew\n\n<!-- a: end -->\nafter\n"
    with pytest.raises(ValueError, match="no section b"):
        replace_section(page, "b", "new")
