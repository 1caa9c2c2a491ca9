"""Problems of a job's annotator service that `check` can find before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rayalign.annotator.asking.api import POOL
from rayalign.annotator.service_file import load_service
from rayalign.config import AnnotatorConfig, CriteriaJudgeConfig, Job, RewardJudgeConfig, RubricJudgeConfig, nearest
from rayalign.errors import InputError
from rayalign.pipeline.kind import Problem
from rayalign.pipeline.needs import AnnotatorRead


def annotator_problems(key: str, job: Job, reads: Sequence[AnnotatorRead]) -> Iterator[Problem]:
    """Problems of the service's file and annotators that it lacks; a service behind a URL is not checked."""
    if not reads or job.annotator.url is not None:
        return
    try:
        annotators = load_service(Path(job.annotator.file) if job.annotator.file else None).annotators
    except InputError as error:
        yield "annotator.file", str(error)
        return
    for read in reads:
        whole_pool = read.name == POOL and not read.scores
        if read.name not in annotators and not whole_pool:
            yield f"{key}.{read.key}", f"there is no annotator {read.name!r}; {nearest(read.name, list(annotators))}"
        elif read.scores and not _scores(annotators[read.name]):
            scoring = ", ".join(name for name, annotator in annotators.items() if _scores(annotator))
            yield (
                f"{key}.{read.key}",
                f"annotator {read.name} compares answers and scores none; "
                f"those that score: {scoring or 'none of this pool'}",
            )


def _scores(annotator: AnnotatorConfig) -> bool:
    scoring = RubricJudgeConfig | RewardJudgeConfig | CriteriaJudgeConfig
    return not annotator.people and isinstance(annotator.judge, scoring)
