"""The driver killed five times at random moments: the same command goes on, and ends with the same bits."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from rayalign.storage.journal import Accounting, Journal
from rayalign.storage.records import read_jsonl
from tests.faults.test_matrix import JOB, PROMPTS, largest_difference, weights

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(3600)]
KILLS, ITERATIONS = 5, 24
SEED = 16
FURTHEST = 60
"""most events between the first weights of a start and its kill; an iteration writes about twenty"""
LONGEST = 900.0
"""seconds of one start"""
COMMAND = [sys.executable, "-c", "from rayalign.cli import main; main()", "run"]


def test_a_deterministic_run_of_two_engines_and_two_ranks_survives_five_kills_of_its_driver(
    model: str, tmp_path: Path
) -> None:
    text = JOB.replace("MODEL", model).replace("PROMPTS", str(PROMPTS)).replace("ITERATIONS", str(ITERATIONS))
    text += "    roles: {policy: {actors: 2}}\n"
    for name in ("killed", "quiet"):
        (tmp_path / f"{name}.yaml").write_text(f"output: {tmp_path / name}\n{text}")
    moments = random.Random(SEED)
    run = tmp_path / "killed" / "struck"
    for _ in range(KILLS):
        kill_after(tmp_path / "killed.yaml", run, moments.randint(1, FURTHEST), moments.uniform(0.0, 0.5))
    for name in ("killed", "quiet"):
        subprocess.run([*COMMAND, str(tmp_path / f"{name}.yaml")], check=True, timeout=LONGEST)
    ranks = [row["rank"] for row in events(run) if row["event"] == "actor_started" and row["role"] == "policy"]
    assert sorted(ranks) == [0] * (KILLS + 1) + [1] * (KILLS + 1)
    with closing(Journal(run / "journal" / "ppo.jsonl")) as journal:
        account = Accounting.of(journal.replay(effective=True))
    account.check(ended=True)
    assert len(account.consumed) == ITERATIONS * PROMPTS
    assert largest_difference(weights(tmp_path / "killed"), weights(tmp_path / "quiet")) == 0.0


def kill_after(job: Path, run: Path, count: int, delay: float) -> None:
    """Start the command, and kill its driver so many events and seconds after its first publication of weights."""
    before = len(events(run))
    driver = subprocess.Popen([*COMMAND, str(job)])
    deadline = time.monotonic() + LONGEST
    try:
        while progress(events(run)[before:]) < count:
            assert driver.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline, "it took too long"
            time.sleep(0.02)
        time.sleep(delay)
        assert driver.poll() is None, "it ended before it was killed"
    finally:
        driver.kill()
        driver.wait(timeout=60)


def progress(rows: list[dict[str, object]]) -> int:
    """How many events followed the first publication of weights."""
    for place, row in enumerate(rows):
        if row["event"] == "published":
            return len(rows) - place
    return 0


def events(run: Path) -> list[dict[str, object]]:
    path = run / "events.jsonl"
    return list(read_jsonl(path, growing=True)) if path.exists() else []
