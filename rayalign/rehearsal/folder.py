"""The folder of a rehearsal: nothing in it is deleted but what rehearsals write, by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from rayalign.config import Job
from rayalign.errors import InputError
from rayalign.rehearsal.report import DIFF, FILE
from rayalign.storage.records import atomic_write

RUN = "miniature"
"""name of the miniature's run"""
_WRITTEN = (
    "stand_ins",
    "rows",
    "names",
    "models",
    "chosen",
    "annotators.yaml",
    "miniature.yaml",
    RUN,
    ".cache",
    DIFF,
    FILE,
)
"""all that a rehearsal writes into its folder"""


def prepare_folder(folder: Path, job: Job) -> None:
    """Make the folder, without what an earlier rehearsal left there, and mark it as that of a rehearsal.

    The mark is a report of a rehearsal that did not end, so a rehearsal that is interrupted can be repeated.

    Raises:
        InputError: it is a file, or holds something and no report of a rehearsal.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name another folder for the rehearsal with --output")
    if folder.is_dir() and any(folder.iterdir()):
        if not _holds_report(folder):
            raise InputError(
                f"{folder} is not empty and holds no rehearsal; name another folder with --output, or delete this one "
                "if a rehearsal left it"
            )
        _remove_written(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark = {"job": job.name, "job_hash": None, "passed": False}
    atomic_write(folder / FILE, [json.dumps(mark, indent=2, ensure_ascii=False) + "\n"])


def _holds_report(folder: Path) -> bool:
    """Whether an earlier rehearsal wrote its report, or its mark, here."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "job_hash" in content


def _remove_written(folder: Path) -> None:
    for name in _WRITTEN:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
