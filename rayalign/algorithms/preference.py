"""Losses of preference pairs, one value for each pair (or each example); the caller sums or averages.

Arguments: log-prob sums of whole answers, `chosen` and `rejected` (and those of the reference), and answer lengths
[tokens]. Shapes: B pairs; P prompts, K candidates. float64 in gives float64 out, and nothing given is changed.

    a = chosen - rejected                      h = a - (ref_chosen - ref_rejected)
    mean_x = x / length of x                   d_x = x - ref_x
    cost(z) = -log sigmoid(z)
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rayalign.errors import InputError

SppoKind = Literal["soft", "single", "hard"]


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    robust: bool = False,
) -> Tensor:
    """DPO (Rafailov 2023, arXiv 2305.18290, eq. 7): `cost(beta h)`.

    With label smoothing e: `(1 - e) cost(beta h) + e cost(-beta h)` (cDPO, Mitchell 2023). Where robust:
    `((1 - e) cost(beta h) - e cost(-beta h)) / (1 - 2 e)`, unbiased under labels that are flipped with probability e
    (rDPO, Chowdhury 2024, arXiv 2403.00409).

    Raises:
        InputError: robust with a label smoothing of 0.5 or more.
    """
    if robust and label_smoothing >= 0.5:
        raise InputError(f"robust DPO takes a label_smoothing below 0.5, this is {label_smoothing}; lower it")
    logits = beta * (chosen - rejected - (ref_chosen - ref_rejected))
    return _smoothed(logits, label_smoothing, robust)


def ipo_loss(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    tau: float,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
) -> Tensor:
    """IPO (Azar 2023, arXiv 2310.12036, eq. 17): `(h - 1 / (2 tau))^2`.

    Where lengths are given, h is made of means over tokens, as TRL and eva have it; that form needs another tau.
    """
    chosen_ratio, rejected_ratio = chosen - ref_chosen, rejected - ref_rejected
    if chosen_lengths is not None and rejected_lengths is not None:
        chosen_ratio = chosen_ratio / chosen_lengths
        rejected_ratio = rejected_ratio / rejected_lengths
    return (chosen_ratio - rejected_ratio - 1 / (2 * tau)).square()


def hinge_loss(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float) -> Tensor:
    """RSO's hinge (Liu 2023, arXiv 2309.06657): `max(0, 1 - beta h)`."""
    return (1 - beta * (chosen - rejected - (ref_chosen - ref_rejected))).clamp(min=0)


def slic_loss(chosen: Tensor, rejected: Tensor, target: Tensor, *, delta: float, weight: float) -> Tensor:
    """SLiC-HF (Zhao 2023, arXiv 2305.10425, eq. 1): `max(0, delta - a) - weight * target`.

    Args:
        target: log-prob sum of the answer that the policy is to stay near.
    """
    return (delta - (chosen - rejected)).clamp(min=0) - weight * target


def simpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float,
    gamma: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """SimPO (Meng 2024, arXiv 2405.14734, eq. 6): `cost(beta (mean_chosen - mean_rejected) - gamma)`."""
    logits = beta * (chosen / chosen_lengths - rejected / rejected_lengths) - gamma
    return _smoothed(logits, label_smoothing, robust=False)


def cpo_loss(chosen: Tensor, rejected: Tensor, chosen_lengths: Tensor, *, beta: float, alpha: float) -> Tensor:
    """CPO (Xu 2024, arXiv 2401.08417): `cost(beta a) - alpha * mean_chosen`."""
    return -logsigmoid(beta * (chosen - rejected)) - alpha * chosen / chosen_lengths


def orpo_loss(
    chosen: Tensor, rejected: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor, *, weight: float
) -> Tensor:
    """ORPO (Hong 2024, arXiv 2403.07691, eq. 6 and 7): `-mean_chosen + weight * cost(log odds ratio)`.

    The odds are P / (1 - P) with P = exp(mean log-prob).
    """
    chosen_mean, rejected_mean = chosen / chosen_lengths, rejected / rejected_lengths
    log_odds_ratio = _log_odds(chosen_mean) - _log_odds(rejected_mean)
    return -chosen_mean - weight * logsigmoid(log_odds_ratio)


def rpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    chosen_lengths: Tensor,
    *,
    beta: float,
    alpha: float,
) -> Tensor:
    """RPO (Pang 2024, arXiv 2404.19733, eq. 1): `cost(beta h) - alpha * mean_chosen`."""
    preference = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=beta)
    return preference - alpha * chosen / chosen_lengths


def sppo_loss(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    eta: float,
    kind: SppoKind,
    p_chosen: Tensor | None = None,
    p_rejected: Tensor | None = None,
) -> Tensor:
    """SPPO (Wu 2024, arXiv 2405.00675).

    soft: `((d_chosen - eta (p_chosen - 1/2))^2 + (d_rejected - eta (p_rejected - 1/2))^2) / 2`, with the probability
    that each answer beats a fresh one. single: with `1 - p_chosen` for p_rejected, the two compared with each other.
    hard: `(d_chosen - eta / 2)^2 + (d_rejected + eta / 2)^2`, without the half, as TRL has it.

    Raises:
        InputError: an unknown kind, or one whose probabilities are missing.
    """
    chosen_ratio, rejected_ratio = chosen - ref_chosen, rejected - ref_rejected
    if kind not in get_args(SppoKind):
        raise InputError(f"SPPO kind {kind!r} is not known; use one of {', '.join(get_args(SppoKind))}")
    if kind == "hard":
        return (chosen_ratio - eta / 2).square() + (rejected_ratio + eta / 2).square()
    if p_chosen is None or (kind == "soft" and p_rejected is None):
        raise InputError(f"SPPO {kind} needs win probabilities; give p_chosen (and p_rejected for soft), or use hard")
    p_worse = p_rejected if kind == "soft" and p_rejected is not None else 1 - p_chosen
    chosen_error = chosen_ratio - eta * (p_chosen - 0.5)
    rejected_error = rejected_ratio - eta * (p_worse - 0.5)
    return (chosen_error.square() + rejected_error.square()) / 2


def kto_loss(
    logps: Tensor,
    ref_logps: Tensor,
    desirable: Tensor,
    kl_logps: Tensor,
    kl_ref_logps: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """KTO (Ethayarajh 2024, arXiv 2402.01306), one value for each example.

    Desirable: `desirable_weight (1 - sigmoid(beta (d - z)))`; else `undesirable_weight (1 - sigmoid(beta (z - d)))`.
    z = max(0, mean of d over mismatched answers) estimates the KL to the reference and carries no gradient.

    Args:
        desirable: True where the answer is a good one.
        kl_logps: log-prob sums of answers to the prompts of other examples, and `kl_ref_logps` the reference's.
    """
    good, bad = kto_values(logps - ref_logps, _mean_ratio(kl_logps, kl_ref_logps), beta=beta)
    return torch.where(desirable.bool(), desirable_weight * good, undesirable_weight * bad)


def kto_values(ratio: Tensor, kl: Tensor, *, beta: float) -> tuple[Tensor, Tensor]:
    """What KTO takes an answer of this log-ratio for, were it a good one and were it a bad one, unweighted."""
    return 1 - torch.sigmoid(beta * (ratio - kl)), 1 - torch.sigmoid(beta * (kl - ratio))


def kto_pair_loss(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float) -> Tensor:
    """KTO on pairs, as TRL has it: 2B values, first those of the chosen answers, then those of the rejected.

    The chosen answers have the KL estimate of the rejected half, and the rejected that of the chosen half.
    """
    chosen_kl, rejected_kl = _mean_ratio(chosen, ref_chosen), _mean_ratio(rejected, ref_rejected)
    good, _ = kto_values(chosen - ref_chosen, rejected_kl, beta=beta)
    _, bad = kto_values(rejected - ref_rejected, chosen_kl, beta=beta)
    return torch.cat([good, bad])


def win_probabilities(scores_K: Tensor) -> Tensor:
    """[i, j]: that candidate i beats j by Bradley-Terry, `sigmoid(score_i - score_j)`.

    The diagonal is 1/2, of an absent score (NaN) too; its comparisons with others are NaN.
    """
    diagonal_KK = torch.eye(len(scores_K), dtype=torch.bool, device=scores_K.device)
    gaps_KK = scores_K[:, None] - scores_K[None, :]
    return torch.sigmoid(gaps_KK.masked_fill(diagonal_KK, 0))


def order_free_logits(straight: Tensor, swapped: Tensor) -> Tensor:
    """Log-odds that the first of two answers beats the second, by a model that reads both in either order.

    `(straight - swapped) / 2`, where each score is the model's own log-odds for the answer that it reads first: the
    mean of its two verdicts. Swapping the answers changes the sign alone.
    """
    return (straight - swapped) / 2


def comparison_probabilities(scores_KK: Tensor) -> Tensor:
    """[i, j]: that candidate i beats j, where `scores_KK[i, j]` is a pairwise model's score with i read first.

    [i, j] + [j, i] = 1, and the diagonal is 1/2, whatever stands on it. NaN where either order is absent (NaN).
    """
    diagonal_KK = torch.eye(len(scores_KK), dtype=torch.bool, device=scores_KK.device)
    logits_KK = order_free_logits(scores_KK, scores_KK.T)
    return torch.sigmoid(logits_KK.masked_fill(diagonal_KK, 0))


def mean_win_probabilities(matrix_KK: Tensor) -> Tensor:
    """The mean probability of each candidate to beat the other ones; NaN where it was compared with none of them.

    A candidate's own half and absent comparisons (NaN) do not count. Differences of these means are no log-odds:
    whether i beats j is `matrix_KK[i, j]`, which no third candidate changes.
    """
    itself_KK = torch.eye(len(matrix_KK), dtype=torch.bool, device=matrix_KK.device)
    return matrix_KK.masked_fill(itself_KK, torch.nan).nanmean(dim=1)


def _smoothed(logits: Tensor, smoothing: float, robust: bool) -> Tensor:
    """The cost of a preference whose label is flipped with a probability; see `dpo_loss`."""
    straight, flipped = -logsigmoid(logits), -logsigmoid(-logits)
    if robust:
        return ((1 - smoothing) * straight - smoothing * flipped) / (1 - 2 * smoothing)
    return (1 - smoothing) * straight + smoothing * flipped


def _log_odds(mean: Tensor) -> Tensor:
    """log(P / (1 - P)) of P = exp(mean), held finite where P comes near 1."""
    highest = -(torch.finfo(mean.dtype).tiny ** 0.5)
    mean = mean.clamp(max=highest)
    # log(1 - exp(x)): Maechler's two forms, each exact where the other cancels; `where` needs both finite.
    near_zero = mean > -math.log(2)
    close = torch.log(-torch.expm1(torch.where(near_zero, mean, -1.0)))
    far = torch.log1p(-torch.exp(torch.where(near_zero, -1.0, mean)))
    return mean - torch.where(near_zero, close, far)


def _mean_ratio(logps: Tensor, ref_logps: Tensor) -> Tensor:
    return (logps - ref_logps).mean().clamp(min=0).detach()
