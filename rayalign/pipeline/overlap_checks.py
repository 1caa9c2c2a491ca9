"""What can be wrong with the settings of answers that are not finished (`overlap`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rayalign.algorithms.base import Algorithm
from rayalign.config import OverlapConfig, TrainStage
from rayalign.pipeline.kind import Problem


def overlap_problems(stage: TrainStage, algorithm: Algorithm[Any]) -> Iterator[Problem]:
    """Every problem of a stage's `overlap`."""
    overlap = stage.overlap
    if overlap is None:
        return
    if not stage.online:
        yield "overlap", "only an online stage writes answers while it trains; leave overlap out"
    if stage.deterministic and overlap.extra_prompts:
        text = "makes an iteration of what is finished first, which deterministic: true forbids; take 0"
        yield "overlap.extra_prompts", f"{overlap.extra_prompts} {text}"
    if overlap.in_flight != "continue" and not stage.max_staleness:
        text = "nothing is in flight when weights come with max_staleness 0; take 1 or more, or leave this out"
        yield "overlap.in_flight", text
    if overlap.old_policy != "present" and not stage.max_staleness:
        text = "no answer is stale with max_staleness 0, so both are the same; take 1 or more, or leave this out"
        yield "overlap.old_policy", text
    if overlap.old_policy != "present" and not algorithm.takes_engine_logprobs:
        yield "overlap.old_policy", f"{stage.algorithm['name']} has no ratio of policies; leave this out"
    if overlap.tail == "later":
        yield from _tail(stage, overlap)


def _tail(stage: TrainStage, overlap: OverlapConfig) -> Iterator[Problem]:
    if not stage.max_staleness:
        yield (
            "overlap.tail",
            "later makes answers a version older, which max_staleness 0 forbids; take 1 or more, or drop",
        )
    if not 1 <= overlap.extra_prompts <= stage.prompts:
        yield (
            "overlap.extra_prompts",
            f"a tail for later has 1 to {stage.prompts} prompts, as many as an iteration at most; "
            f"{overlap.extra_prompts} are set",
        )
