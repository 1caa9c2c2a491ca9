"""A starter job, as `rayalign init` writes it from a user's rows, runs to its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayalign.storage.records import read_jsonl, write_jsonl
from rayalign.storage.summary import read_done

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(600)]
SMALLER = ("stages.base.model=preset:pico", "stages.base.vocabulary=300", "stages.base.epochs=1")


def call(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-c", "from rayalign.cli import main; main()", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr


def test_a_starter_job_of_own_rows_runs(tmp_path: Path) -> None:
    rows = [{"prompt": f"is it {n} ?", "chosen": f"yes , {n} .", "rejected": "i do not know ."} for n in range(40)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    call(tmp_path, "init", "rows.jsonl")
    call(tmp_path, "run", "job.yaml", *SMALLER)
    folder = tmp_path / "runs" / "job"
    results = json.loads((folder / "summary.json").read_text())["results"]
    assert "preference_accuracy" in {row["metric"] for row in results} and (folder / "report.html").is_file()
    stages = folder / "stages"
    assert all(read_done(stages / name) for name in ("base", "sft", "dpo", "samples"))
    answers = list(read_jsonl(stages / "samples" / "records.jsonl"))
    assert len(answers) == 20 and all(len(row["candidates"]) == 1 for row in answers)
