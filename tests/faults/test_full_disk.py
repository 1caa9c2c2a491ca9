"""A disk that fills up in the middle of a run: named, and once there is room the same command goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from rayalign.storage.journal import Accounting, Journal
from tests.faults.test_matrix import JOB

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


def test_a_full_disk_is_named_and_with_room_the_same_command_goes_on(model: str, tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("the system allows no mounts of one's own (unshare)")
    disk, job, kept = tmp_path / "disk", tmp_path / "job.yaml", tmp_path / "kept"
    disk.mkdir()
    text = JOB.replace("MODEL", model).replace("PROMPTS", str(PROMPTS)).replace("ITERATIONS", str(ITERATIONS))
    job.write_text(f"output: {disk}\n{text}")
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", TWICE, "sh"]
    done = subprocess.run(
        [*command, str(disk), sys.executable, str(job), str(kept)],
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500,
    )
    if done.returncode == 77:
        pytest.skip("the system allows no mounts of one's own (unshare)")
    print(done.stdout)
    assert f"rayalign: no space left on {disk}" in done.stdout
    assert "first: 1" in done.stdout.splitlines()
    assert "second: 0" in done.stdout.splitlines()
    assert "Traceback" not in done.stdout
    with closing(Journal(kept / "ppo.jsonl")) as journal:
        account = Accounting.of(journal.replay(effective=True))
    account.check(ended=True)
    assert len(account.consumed) == ITERATIONS * PROMPTS
