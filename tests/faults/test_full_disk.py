"""A disk fills up at some time, or in each phase: the run names it, and with room the same command goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.faults import keep
from rayalign.storage.journal import Accounting, Journal
from rayalign.storage.records import read_jsonl
from tests.faults.blows import DISK, PHASES
from tests.faults.test_matrix import JOB, largest_difference, start

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(1800)]
ITERATIONS, PROMPTS = 6, 4
TWICE = """
mount -t tmpfs -o size=24m none "$1" || exit 77
"$2" -c "from rayalign.cli import main; main()" run "$3"; echo "first: $?"
df -k "$1"
mount -o remount,size=400m "$1"
"$2" -c "from rayalign.cli import main; main()" run "$3"; echo "second: $?"
cp -r "$1/struck/journal" "$4"
"""
"""runs a job twice, on a small disk of its own and once this has grown"""
STRUCK = """
mount -t tmpfs -o size=400m none "$1" || exit 77
for start in 1 2 3 4 5 6 7 8; do
  "$2" -m tests.faults.driver "$3" "$5" $6; code=$?
  echo "exit: $code"
  [ $code = 0 ] && break
done
cp -r "$1/struck/journal" "$4"
cp "$1/struck/stages/ppo/model/model.safetensors" "$4"
"""
"""runs a job whose disk fills up several times, until it has come to its end"""
CELLS = [f"{DISK}/{phase}/full" for phase in PHASES]


def job_on(disk: Path, model: str) -> str:
    """The job of the matrix, with its output on that disk."""
    text = JOB.replace("MODEL", model).replace("PROMPTS", str(PROMPTS)).replace("ITERATIONS", str(ITERATIONS))
    return f"output: {disk}\n{text}"


def mounted(script: str, *arguments: str) -> str:
    """The output of a script that mounts a disk of its own."""
    if shutil.which("unshare") is None:
        pytest.skip("the system allows no mounts of one's own (unshare)")
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", *arguments],
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500,
    )
    if done.returncode == 77:
        pytest.skip("the system allows no mounts of one's own (unshare)")
    print(done.stdout)
    return done.stdout


def consumed(path: Path) -> int:
    """Groups that were consumed, each once and none lost."""
    with closing(Journal(path)) as journal:
        account = Accounting.of(journal.replay(effective=True))
    account.check(ended=True)
    return len(account.consumed)


@pytest.fixture
def paths(model: str, tmp_path: Path) -> tuple[Path, Path, Path]:
    """Where the disk is mounted, the job, and what is kept of the run."""
    disk, job, kept = tmp_path / "disk", tmp_path / "job.yaml", tmp_path / "kept"
    disk.mkdir()
    job.write_text(job_on(disk, model))
    return disk, job, kept


def test_a_full_disk_is_named_and_with_room_the_same_command_goes_on(paths: tuple[Path, Path, Path]) -> None:
    disk, job, kept = paths
    text = mounted(TWICE, str(disk), sys.executable, str(job), str(kept))
    assert f"rayalign: no space left on {disk}" in text
    assert "first: 1" in text.splitlines()
    assert "second: 0" in text.splitlines()
    assert "Traceback" not in text
    assert consumed(kept / "ppo.jsonl") == ITERATIONS * PROMPTS


def test_a_disk_may_fill_up_in_any_phase(paths: tuple[Path, Path, Path], model: str, tmp_path: Path) -> None:
    disk, job, kept = paths
    kept.mkdir()
    results = tmp_path / "results.jsonl"
    text = mounted(STRUCK, str(disk), sys.executable, str(job), str(kept), str(results), " ".join(CELLS))
    codes = [line for line in text.splitlines() if line.startswith("exit: ")]
    quiet = tmp_path / "quiet.yaml"
    quiet.write_text(job_on(tmp_path / "quiet", model))
    done = start("-c", "from rayalign.cli import main; main()", "run", str(quiet))
    assert done.returncode == 0, done.stdout
    undisturbed = tmp_path / "quiet" / "struck" / "stages" / "ppo" / "model" / "model.safetensors"
    difference = largest_difference(kept / "model.safetensors", undisturbed)
    rows = list(read_jsonl(results))
    keep(rows, starts=len(codes), difference=difference)
    assert codes == [*["exit: 1"] * len(CELLS), "exit: 0"]
    assert [f"{row['role']}/{row['phase']}/{row['kind']}" for row in rows] == CELLS
    for row in rows:
        assert row["reason"].startswith(f"no space left on {disk}"), row
    assert "Traceback" not in text
    assert difference == 0.0
    assert consumed(kept / "journal" / "ppo.jsonl") == ITERATIONS * PROMPTS
