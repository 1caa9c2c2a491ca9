"""Several scores of one sample to one. Shapes: O objectives, B samples."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from rayalign.algorithms.ops import zeroed
from rayalign.config import CombineKind
from rayalign.errors import InputError


def combine(
    scores_OB: Tensor,
    weights_O: Tensor,
    active_OB: Tensor,
    *,
    kind: CombineKind,
    ideal_O: Tensor | None = None,
) -> Tensor:
    """One score for each sample, over the objectives that are active for it; NaN where none is.

    mean: the plain mean; weights do not count (Jang 2023, Personalized Soups, arXiv 2310.11564: P-MORL).
    weighted: sum_o w_o s_o / sum_o |w_o|. A negative weight makes an objective a penalty.
    min: the smallest score; weights do not count.
    chebyshev: -max_o w_o (ideal_o - s_o) (Steuer and Choo 1983), where `ideal_O` is the best score that each objective
    can reach, 0 by default: the objective that is furthest from its ideal decides.

    Args:
        active_OB: nonzero where an objective counts for a sample; scores elsewhere have no influence.

    Raises:
        InputError: no such kind, or no objective.
    """
    if not len(scores_OB):
        raise InputError("combine needs the scores of at least one objective, but there is none; name one")
    active = active_OB.bool()
    weights_O1 = weights_O.to(scores_OB.dtype)[:, None]
    combined_B = _combined(scores_OB, weights_O1, active, kind, ideal_O)
    return combined_B.masked_fill(~active.any(0), torch.nan)


def _combined(
    scores_OB: Tensor, weights_O1: Tensor, active_OB: Tensor, kind: CombineKind, ideal_O: Tensor | None
) -> Tensor:
    if kind == "mean":
        return zeroed(scores_OB, active_OB).sum(0) / active_OB.sum(0).clamp(min=1)
    if kind == "weighted":
        total_B = zeroed(weights_O1 * scores_OB, active_OB).sum(0)
        weight_B = zeroed(weights_O1.abs().expand_as(scores_OB), active_OB).sum(0)
        return total_B / torch.where(weight_B > 0, weight_B, 1)
    if kind == "min":
        return scores_OB.masked_fill(~active_OB, torch.inf).amin(0)
    if kind == "chebyshev":
        ideal_O1 = 0.0 if ideal_O is None else ideal_O.to(scores_OB.dtype)[:, None]
        gap_OB = weights_O1 * (ideal_O1 - scores_OB)
        return -gap_OB.masked_fill(~active_OB, -torch.inf).amax(0)
    raise InputError(f"combine {kind!r} is not known; use one of {', '.join(get_args(CombineKind))}")
