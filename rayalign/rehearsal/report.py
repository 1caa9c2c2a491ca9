"""rehearsal.json and rehearsal.diff, and whether a job has been rehearsed as it is now."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayalign.config import Job
from rayalign.pipeline.hashing import stage_hashes
from rayalign.pipeline.outputs import run_folder
from rayalign.rehearsal.changes import Change, render
from rayalign.rehearsal.events import Event
from rayalign.rehearsal.findings import Finding
from rayalign.storage.records import atomic_write
from rayalign.storage.remote import is_url

FILE = "rehearsal.json"
DIFF = "rehearsal.diff"
_RUNS = Path("runs")
"""of the working directory"""
_ELSEWHERE = ("name", "output", "tracking")
"""sections that change nothing of what a job does"""


def rehearsal_folder(job: Job) -> Path:
    """Where the rehearsal of a job lies unless another folder is named: on this machine, even if `output` is a URL."""
    run = _RUNS / job.name if is_url(job.output) else run_folder(job)
    return run / "rehearsal"


def job_hash(job: Job) -> str:
    """Of all that a rehearsal depends on: every setting, placement too, and the contents of local data and models."""
    settings = {key: value for key, value in job.model_dump(mode="json").items() if key not in _ELSEWHERE}
    text = json.dumps([settings, stage_hashes(job)], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def rehearsed(job: Job, folder: Path | None = None) -> str | None:
    """None where a rehearsal of the job as it is now went well; else why not, with the remedy.

    Args:
        folder: of the rehearsal; None: the usual one, or the one in `runs` of the working directory, where a job lies
            that was rehearsed without its cluster's `output`.
    """
    path = (folder or _usual_folder(job)) / FILE
    remedy = "run `rayalign rehearse` with the same job and overrides"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"the job was never rehearsed ({path} is missing); {remedy}"
    except (OSError, json.JSONDecodeError) as error:
        return f"{path} cannot be read ({error}); {remedy}"
    if "job_hash" in content and content["job_hash"] is None:
        return f"the last rehearsal did not end ({path}); {remedy}"
    if content.get("job_hash") != job_hash(job):
        return f"the job has changed since it was rehearsed ({path}); {remedy}"
    errors = [finding for finding in content.get("findings", ()) if finding["level"] == "error"]
    if content.get("ran") is False and not errors:
        return f"the last rehearsal did not run the miniature ({path}); {remedy}"
    if not content.get("passed"):
        return f"the last rehearsal found problems ({path}); correct them, and {remedy}"
    return None


def _usual_folder(job: Job) -> Path:
    usual = rehearsal_folder(job)
    here = _RUNS / job.name / usual.name
    return usual if (usual / FILE).exists() or not (here / FILE).exists() else here


def write_report(
    folder: Path,
    job: Job,
    *,
    full: bool,
    ran: bool,
    changes: Sequence[Change],
    findings: Sequence[Finding],
    events: Sequence[Event],
    seconds: dict[str, float],
) -> Path:
    """Write both files; the path of rehearsal.json.

    Args:
        ran: whether the miniature was run, without which no rehearsal passes.
    """
    lines = render(changes)
    errors = [finding for finding in findings if finding.level == "error"]
    content = {
        "job": job.name,
        "job_hash": job_hash(job),
        "time": time.time(),
        "full": full,
        "ran": ran,
        "passed": ran and not errors,
        "findings": [{"level": f.level, "key": f.key, "text": f.text} for f in findings],
        "events": [event.row() for event in events],
        "diff": lines,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / DIFF, ["\n".join(lines) + "\n"])
    atomic_write(folder / FILE, [json.dumps(content, indent=2, ensure_ascii=False) + "\n"])
    return folder / FILE
