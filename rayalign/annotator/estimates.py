"""What annotating would cost, before it begins."""

from __future__ import annotations

from rayalign.annotator.api import Estimate, PreferenceRequest
from rayalign.annotator.pool import Pool
from rayalign.annotator.verdicts import Usage


def estimate(pool: Pool, request: PreferenceRequest, client: str = "", seen: set[str] | None = None) -> Estimate:
    """Of what the cache lacks, at the judges' own estimates.

    Args:
        seen: keys of verdicts that earlier requests of the same job have counted.

    Raises:
        InputError: unknown annotator.
    """
    verdicts, about, least = 0, Usage(), Usage()
    for member, pairs in pool.unpaid(request, set() if seen is None else seen):
        if member.estimate is not None and pairs:
            verdicts += len(pairs)
            about += member.estimate(pairs)
            least += (member.least or member.estimate)(pairs)
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
