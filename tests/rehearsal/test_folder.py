"""The folder of a rehearsal: what may be deleted in it, and what it says before the rehearsal ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayalign.config import Job
from rayalign.errors import InputError
from rayalign.rehearsal.folder import prepare_folder
from rayalign.rehearsal.report import rehearsed, write_report


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job.model_validate({"name": "small", "output": str(tmp_path), "stages": {"base": {"kind": "pretrain"}}})


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_of_other_files_is_refused_and_stays(job: Job, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "models").mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"mine is not empty and holds no rehearsal; name another folder") as refusal:
        prepare_folder(folder, job)
    assert "\n" not in str(refusal.value)
    assert names_in(folder) == {"models", "thesis.txt"}
    assert (folder / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"mine": 1}'])
def test_a_report_that_is_not_ours_vouches_for_nothing(job: Job, tmp_path: Path, content: str) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "rehearsal.json").write_text(content)
    with pytest.raises(InputError, match="holds no rehearsal"):
        prepare_folder(folder, job)
    assert (folder / "rehearsal.json").read_text() == content


def test_a_file_is_refused(job: Job, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("text")
    with pytest.raises(InputError, match="mine is a file; name another folder"):
        prepare_folder(tmp_path / "mine", job)
    assert (tmp_path / "mine").read_text() == "text"


def test_of_an_earlier_rehearsal_only_what_it_wrote_is_removed(job: Job, tmp_path: Path) -> None:
    folder = tmp_path / "rehearsal"
    write_report(folder, job, full=False, ran=True, changes=[], findings=[], events=[], seconds={})
    (folder / "miniature" / "stages").mkdir(parents=True)
    (folder / "miniature.yaml").write_text("name: miniature")
    (folder / "models").symlink_to(tmp_path)
    (folder / "notes.txt").write_text("of the user")
    prepare_folder(folder, job)
    assert names_in(folder) == {"rehearsal.json", "notes.txt"}
    assert folder.is_dir() and tmp_path.is_dir()


def test_a_rehearsal_that_was_interrupted_counts_for_nothing_and_can_be_repeated(job: Job, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "rehearsal"
    prepare_folder(folder, job)
    (folder / "chosen").mkdir()
    assert "the last rehearsal did not end" in str(rehearsed(job, folder))
    prepare_folder(folder, job)
    assert names_in(folder) == {"rehearsal.json"}
    assert json.loads((folder / "rehearsal.json").read_text())["passed"] is False
