"""What a beam search cannot be asked for."""

from __future__ import annotations

from collections.abc import Iterator

from rayalign.config import SamplingConfig
from rayalign.pipeline.kind import Problem


def beam_problems(count: int, sampling: SamplingConfig, key: str) -> Iterator[Problem]:
    """A beam search gives no more candidates than it has beams, and cuts no tails."""
    if sampling.beams is None:
        return
    if count > sampling.beams.width:
        yield (
            key,
            f"{count} candidates of a beam search of width {sampling.beams.width}; raise beams.width or lower it",
        )
    if sampling.top_p < 1.0 or sampling.top_k:
        yield key, "a beam search takes the likeliest tokens anyway; leave top_p and top_k out"
