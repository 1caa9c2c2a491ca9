"""The example of docs/, run as it is shipped."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "first_job.py"
pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(600)]


def test_the_example_checks_plans_runs_and_reports(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, str(EXAMPLE)], cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr
    assert "sed is not known; did you mean seed" in ended.stdout
    figures = re.findall(r"^(\w+): gold_utility [\d.]+ over 16 prompts$", ended.stdout, re.MULTILINE)
    assert figures == ["base", "sft"]
    report = Path(tmp_path, ended.stdout.splitlines()[-1])
    assert report == tmp_path / "runs" / "first" / "report.html" and "gold_utility" in report.read_text()


def test_every_cell_of_code_stands_alone() -> None:
    cells = re.split(r"^# %%.*\n", EXAMPLE.read_text(), flags=re.MULTILINE)[1:]
    assert len(cells) > 8
    for cell in cells:
        ast.parse(cell)
