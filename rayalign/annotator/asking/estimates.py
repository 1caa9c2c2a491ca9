"""The cost of annotating: an estimate before it begins, a summary as it goes."""

from __future__ import annotations

from pydantic import BaseModel, computed_field

from rayalign.annotator.asking.api import Annotation, Estimate, PreferenceRequest
from rayalign.annotator.judges.verdicts import Usage
from rayalign.annotator.pool.pool import Pool


def estimate(pool: Pool, request: PreferenceRequest, client: str = "", counted: set[str] | None = None) -> Estimate:
    """The cost of the verdicts that the cache lacks, by the judges' own estimates.

    Args:
        counted: keys of verdicts that the same job counted before; those of this request are added.
    """
    verdicts, about, least = 0, Usage(), Usage()
    for annotator, pairs in pool.unpaid(request, set() if counted is None else counted):
        if annotator.estimate is not None and pairs:
            verdicts += len(pairs)
            about += annotator.estimate(pairs)
            least += (annotator.least or annotator.estimate)(pairs)
    left = pool.left(client)
    return Estimate(
        pairs=len(request.pairs),
        verdicts=verdicts,
        prompt_tokens=about.prompt_tokens,
        completion_tokens=about.completion_tokens,
        price=about.price,
        least_tokens=least.prompt_tokens + least.completion_tokens,
        least_price=least.price,
        tokens_left=left.tokens,
        dollars_left=left.dollars,
    )


class Summary(BaseModel):
    """Counts and cost of annotations."""

    rows: int = 0
    absent: int = 0
    """without a preference"""
    cached: int = 0
    noise: int = 0
    inconsistent: int = 0
    """judged in both orders with different results"""
    price: float = 0.0
    """paid for all of them"""
    _in_both: int = 0
    _first_shown: float = 0.0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def position_bias(self) -> float | None:
        """Share of verdicts for the answer shown first, less a half, where both orders were judged."""
        return self._first_shown / self._in_both - 0.5 if self._in_both else None

    def counted(self, a: Annotation) -> Annotation:
        """Count an annotation and return it."""
        self.rows += 1
        self.absent += a.preference is None
        self.cached += a.cached
        self.noise += a.noise
        self.inconsistent += a.consistent is False
        self.price += a.paid
        self._in_both += a.first_shown is not None
        self._first_shown += a.first_shown or 0.0
        return a
