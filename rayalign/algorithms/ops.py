"""The mathematics that algorithms share.

Shapes: P prompts, K candidates, B sequences, T tokens. In every function with a mask, entries where it is 0 have no
influence, whatever they hold (NaN and infinity too, in the gradient as well), and are 0 in what is returned. Inputs are
not changed; float64 in gives float64 out. Where nothing is valid, means, variances and fractions are 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from rayalign.algorithms.gae import gae as gae
from rayalign.errors import InputError
from rayalign.types import Metric, Metrics, Rollouts

KlKind = Literal["k1", "k2", "k3", "abs"]
MissingEos = Literal["keep", "replace", "subtract"]
Aggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"]
ImportanceKind = Literal["token-truncate", "token-mask", "sequence", "sequence-geometric"]
AdvantageKind = Literal["rloo", "grpo", "grpo-no-std"]


def _known(what: str, value: str, kinds: object) -> None:
    if value not in get_args(kinds):
        raise InputError(f"{what} {value!r} is not known; use one of {', '.join(get_args(kinds))}")


def zeroed(x: Tensor, mask: Tensor) -> Tensor:
    """`x` with 0 where the mask is 0; no value and no gradient passes from there."""
    return x.masked_fill(~mask.bool(), 0)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over all valid entries."""
    return zeroed(x, mask).sum() / _count(x, mask).clamp(min=1)


def _count(x: Tensor, mask: Tensor) -> Tensor:
    return mask.bool().expand_as(x).sum()


def masked_var(x: Tensor, mask: Tensor, *, unbiased: bool = True) -> Tensor:
    """Variance over all valid entries, divided by n - 1 (Bessel) or n; 0 for a single entry."""
    deviation = zeroed(x - masked_mean(x, mask), mask)
    return deviation.square().sum() / (_count(x, mask) - int(unbiased)).clamp(min=1)


def masked_whiten(
    x: Tensor, mask: Tensor, *, shift_mean: bool = True, unbiased: bool = True, eps: float = 1e-8
) -> Tensor:
    """`(x - mean) / sqrt(var + eps)` over all valid entries; without `shift_mean` the mean is put back."""
    x = zeroed(x, mask)
    mean = masked_mean(x, mask)
    white = (x - mean) * torch.rsqrt(masked_var(x, mask, unbiased=unbiased) + eps)
    return zeroed(white if shift_mean else white + mean, mask)


def _last(mask_BT: Tensor) -> Tensor:
    """True on the last valid token of each row that has one."""
    valid = mask_BT.bool()
    return valid & (valid.flip(1).cumsum(1).flip(1) == 1)


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: KlKind) -> Tensor:
    """Per-token estimate of KL(policy || reference) on tokens drawn from the policy (Schulman 2020).

    k1 is for penalties inside a reward; as a loss term its expected gradient is 0. k2 has the gradient of
    KL(policy || reference), k3 (never negative) that of KL(reference || policy).
    """
    _known("KL estimate", kind, KlKind)
    difference = logprobs - ref_logprobs
    if kind == "k2":
        return difference.square() / 2
    if kind == "k3":
        return torch.expm1(-difference) + difference
    return difference.abs() if kind == "abs" else difference


def shape_rewards(
    scores_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, *, beta: float, score_clip: float | None = None
) -> Tensor:
    """`-beta * kl` on each valid token, and the score (clamped to +-score_clip) once, on the last of them."""
    if score_clip is not None:
        scores_B = scores_B.clamp(-score_clip, score_clip)
    return torch.where(_last(mask_BT), scores_B[:, None], 0) - beta * zeroed(kl_BT, mask_BT)


def missing_eos_scores(scores_B: Tensor, ended_B: Tensor, *, policy: MissingEos, value: float) -> Tensor:
    """Scores with `value` in the place of (replace), or taken off (subtract), those of answers that were cut.

    An absent score (NaN) stays absent.
    """
    _known("missing-EOS policy", policy, MissingEos)
    cut = {"keep": scores_B, "replace": torch.full_like(scores_B, value), "subtract": scores_B - value}[policy]
    return torch.where(ended_B.bool() | scores_B.isnan(), scores_B, cut)


def aggregate(x_BT: Tensor, mask_BT: Tensor, mode: Aggregation, *, max_length: int | None = None) -> Tensor:
    """`aggregate_sum / aggregate_count`; the denominators, where rows without a valid token are not counted, are

    token-mean: all valid tokens. seq-mean-token-mean: in each row its tokens, then the rows. seq-mean-token-sum: the
    rows. seq-mean-token-sum-norm: the rows times `max_length` (None: T), as in Dr. GRPO.
    """
    return aggregate_sum(x_BT, mask_BT, mode, max_length=max_length) / aggregate_count(mask_BT, mode).clamp(min=1)


def aggregate_sum(x_BT: Tensor, mask_BT: Tensor, mode: Aggregation, *, max_length: int | None = None) -> Tensor:
    """The numerator of `aggregate`, additive over rows."""
    _known("aggregation", mode, Aggregation)
    sums_B = zeroed(x_BT, mask_BT).sum(1)
    if mode == "seq-mean-token-mean":
        sums_B = sums_B / mask_BT.bool().sum(1).clamp(min=1)
    elif mode == "seq-mean-token-sum-norm":
        sums_B = sums_B / (max_length or x_BT.shape[1])
    return sums_B.sum()


def aggregate_count(mask_BT: Tensor, mode: Aggregation) -> Tensor:
    """The denominator of `aggregate`, additive over rows."""
    valid = mask_BT.bool()
    return valid.sum() if mode == "token-mean" else valid.any(1).sum()


def importance_weights(
    logprobs_BT: Tensor,
    behaviour_logprobs_BT: Tensor,
    mask_BT: Tensor,
    *,
    cap: float,
    kind: ImportanceKind = "token-truncate",
) -> Tensor:
    """Weights for tokens drawn from a behaviour that differs from the trainer's policy; they carry no gradient.

    With ratio = exp(logprobs - behaviour): token-truncate: min(ratio, cap). token-mask: ratio, 0 outside [1/cap, cap].
    sequence: min(product of a row's ratios, cap) on all its tokens. sequence-geometric: with their geometric mean.
    """
    _known("importance kind", kind, ImportanceKind)
    log_ratio = zeroed(logprobs_BT.detach() - behaviour_logprobs_BT.detach(), mask_BT)
    if kind == "token-mask":
        return zeroed(log_ratio.exp(), mask_BT.bool() & (log_ratio.abs() <= math.log(cap)))
    if kind in ("sequence", "sequence-geometric"):
        sums = log_ratio.sum(1, keepdim=True)
        mean = sums / mask_BT.bool().sum(1, keepdim=True).clamp(min=1)
        log_ratio = (sums if kind == "sequence" else mean).expand_as(log_ratio)
    return zeroed(log_ratio.exp().clamp(max=cap), mask_BT)


def effective_sample_fraction(weights: Tensor, mask: Tensor) -> Tensor:
    """Kish's effective sample size over n: (sum w)^2 / (n sum w^2); 1 where all weights are equal."""
    weights = zeroed(weights, mask)
    squares = weights.square().sum() * _count(weights, mask)
    return torch.where(squares > 0, weights.sum().square() / squares, 0)


def group_advantages(scores_PK: Tensor, *, kind: AdvantageKind) -> Tensor:
    """Advantages of candidates within their group; NaN marks an absent one, whose advantage is 0.

    rloo: the score minus the mean of the others. grpo: (score - mean) / (standard deviation (n - 1) + 1e-6).
    grpo-no-std: score - mean. A group of one, or of equal scores, gives 0.
    """
    _known("advantage kind", kind, AdvantageKind)
    if not scores_PK.shape[1]:
        raise InputError("group_advantages needs at least one candidate in a group; its scores are [P, K]")
    present = ~scores_PK.isnan()
    count = present.sum(1, keepdim=True)
    lowest = scores_PK.masked_fill(~present, math.inf).amin(1, keepdim=True)
    scores = zeroed(scores_PK - lowest, present)  # equal scores are 0 now: rounding of their mean makes no signal
    deviation = zeroed(scores - scores.sum(1, keepdim=True) / count.clamp(min=1), present)
    if kind == "rloo":
        return deviation * count / (count - 1).clamp(min=1)
    if kind == "grpo":
        variance = deviation.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)
        return deviation / (variance.sqrt() + 1e-6)
    return deviation


class AdaptiveKL:
    """The KL coefficient that is led towards a target (Ziegler 2019, section 2.2); `beta` is also its whole state."""

    def __init__(self, initial: float, target: float, horizon: float) -> None:
        self.beta, self.target, self.horizon = initial, target, horizon

    def update(self, observed_kl: float, n_samples: int) -> float:
        """The coefficient after a batch of `n_samples` whose mean KL summed over each sequence was `observed_kl`."""
        error = min(max(float(observed_kl) / self.target - 1, -0.2), 0.2)
        self.beta *= 1 + error * n_samples / self.horizon
        return self.beta


@dataclass(slots=True)
class RunningMoments:
    """Mean and variance of a stream (Welford; merged as by Chan 1979); its fields are its state."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0  # of deviations from the mean

    def update(self, x: Tensor) -> None:
        """Take new values in; NaN is absent."""
        x = x.detach().double()[~x.isnan()]
        if x.numel():
            mean = x.mean()
            squares = (x - mean).square().sum()
            self.merge(RunningMoments(float(x.numel()), mean.item(), squares.item()))

    def merge(self, other: RunningMoments) -> RunningMoments:
        """Take another stream in; gives itself back."""
        count = self.count + other.count
        if count:
            delta = other.mean - self.mean
            self.squares += other.squares + delta**2 * self.count * other.count / count
            self.mean += delta * other.count / count
            self.count = count
        return self

    def var(self, unbiased: bool = True) -> float:
        """Variance, divided by n - 1 or n; 0 below two values."""
        return self.squares / max(self.count - int(unbiased), 1.0)

    def normalize(self, x: Tensor) -> Tensor:
        """`x` less the mean, over the standard deviation (n - 1) where that is not 0."""
        return (x - self.mean) / (math.sqrt(self.var()) or 1.0)


def mean_metric(x: Tensor, mask: Tensor) -> Metric:
    """The mean over valid entries, weighted by their number."""
    return Metric(masked_mean(x.detach(), mask).item(), float(_count(x, mask)))


def token_tensors(rollouts: Rollouts) -> dict[str, Tensor]:
    """The tensors that every batch has."""
    tokens = {"input_ids_BT": rollouts.input_ids_BT, "attention_mask_BT": rollouts.attention_mask_BT}
    return {**tokens, "policy_mask_BT": rollouts.policy_mask_BT}


def units(unit_B: Tensor) -> list[int]:
    """The different units, in order."""
    return sorted(set(unit_B.tolist()))


MISMATCH_METRICS = frozenset(f"rollout/{name}" for name in ("mismatch_k3", "mismatch_max", "ess"))
"""of `rollout_metrics`, those that compare the engines' log-probs with the trainer's"""
ROLLOUT_METRICS = MISMATCH_METRICS | {
    *("reward/mean", "reward/std"),
    *(f"rollout/{name}" for name in ("length_p50", "length_p95", "eos_rate")),
}
"""all that `rollout_metrics` can report"""


def rollout_metrics(rollouts: Rollouts) -> Metrics:
    """What any rollout batch is watched by, as far as it is known.

    `mismatch` is between the log-probs of the engine that wrote a token and the trainer's (k3, and the largest), `ess`
    the effective sample fraction of their ratios without a cap; none of them where the engine's are all there are.
    """
    mask = rollouts.policy_mask_BT
    ours_BT, theirs_BT = rollouts.logprobs_BT, rollouts.behaviour_logprobs_BT
    size, lengths = float(len(mask)), mask.bool().sum(1).double()
    metrics = {f"rollout/length_p{q}": Metric(lengths.quantile(q / 100).item(), size) for q in (50, 95)}
    if rollouts.scores_B is not None:
        present = ~rollouts.scores_B.isnan()
        metrics["reward/mean"] = mean = mean_metric(rollouts.scores_B, present)
        metrics["reward/std"] = Metric(masked_var(rollouts.scores_B, present).sqrt().item(), mean.weight)
    if rollouts.ended_B is not None:
        metrics["rollout/eos_rate"] = Metric(rollouts.ended_B.double().mean().item(), size)
    if ours_BT is not None and theirs_BT is not None and ours_BT is not theirs_BT:
        written = mask.bool() & ~theirs_BT.isnan()  # what a data set wrote has no mismatch
        ours, theirs = zeroed(ours_BT, written), zeroed(theirs_BT, written)
        sample = effective_sample_fraction(importance_weights(ours, theirs, written, cap=math.inf), written)
        metrics["rollout/mismatch_k3"] = k3 = mean_metric(kl_estimate(theirs, ours, "k3"), written)
        metrics["rollout/mismatch_max"] = Metric((ours - theirs).abs().max().item(), reduction="max")
        metrics["rollout/ess"] = Metric(sample.item(), k3.weight)
    return metrics
