from __future__ import annotations

import platform
import subprocess
from pathlib import Path

from rayalign.pipeline.environment import commit, environment


def test_the_environment_names_versions_and_machine() -> None:
    here = environment()
    assert here["versions"]["python"] == platform.python_version() and "torch" in here["versions"]
    assert here["machine"]["cores"] >= 1 and here["machine"]["memory_bytes"] > 1 << 30


def test_the_commit_of_a_checkout_and_whether_it_was_changed(tmp_path: Path) -> None:
    assert commit(tmp_path) is None
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "one")
    clean = commit(tmp_path)
    assert clean is not None and len(clean) == 12
    (tmp_path / "file").write_text("2")
    assert commit(tmp_path) == f"{clean}-dirty"
