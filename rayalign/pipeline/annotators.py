"""What can be known to be wrong with a job's annotator service before it starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rayalign.annotator.api import POOL
from rayalign.annotator.files import load_service
from rayalign.config import AnnotatorConfig, Job, RewardJudgeConfig, RubricJudgeConfig, Stage, nearest
from rayalign.errors import InputError
from rayalign.pipeline.hashing import ANNOTATOR, asks_annotator


def annotator_problems(key: str, job: Job, stage: Stage) -> Iterator[tuple[str, str]]:
    """The service's file is sound and has the annotator that is asked for; of a URL nothing is known yet."""
    if not asks_annotator(stage) or job.annotator.url is not None:
        return
    try:
        known = load_service(Path(job.annotator.file) if job.annotator.file else None).annotators
    except InputError as error:
        yield "annotator.file", str(error)
        return
    values = stage.model_dump()
    asked = {"annotator": values.get("annotator"), "reward": str(values.get("reward")).partition(ANNOTATOR)[2]}
    for field, name in asked.items():
        if name and name not in known and (name, field) != (POOL, "annotator"):
            yield f"{key}.{field}", f"there is no annotator {name!r}; {nearest(name, list(known))}"
        elif name and field == "reward" and not _scores(known[name]):
            able = ", ".join(n for n, a in known.items() if _scores(a)) or "none of this pool"
            yield f"{key}.{field}", f"annotator {name} compares answers and scores none; those that score: {able}"


def _scores(annotator: AnnotatorConfig) -> bool:
    return annotator.human is None and isinstance(annotator.judge, RubricJudgeConfig | RewardJudgeConfig)
