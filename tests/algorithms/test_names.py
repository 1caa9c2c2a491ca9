"""The pure functions that users' own code calls: their names, arguments and defaults stay."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from rayalign.algorithms import ops, policy_gradient, ppo, preference, reward, rrhf
from rayalign.models import merge
from rayalign.scoring import combine

OPS = {
    "masked_mean": "(x, mask)",
    "masked_var": "(x, mask, *, unbiased=True)",
    "masked_whiten": "(x, mask, *, shift_mean=True, unbiased=True, eps=1e-08)",
    "gae": "(rewards_BT, values_BT, mask_BT, *, gamma, lam, bootstrap_B=None)",
    "kl_estimate": "(logprobs, ref_logprobs, kind)",
    "shape_rewards": "(scores_B, kl_BT, mask_BT, *, beta, score_clip=None)",
    "missing_eos_scores": "(scores_B, ended_B, *, policy, value)",
    "aggregate": "(x_BT, mask_BT, mode, *, max_length=None)",
    "importance_weights": "(logprobs_BT, behaviour_logprobs_BT, mask_BT, *, cap, kind='token-truncate')",
    "effective_sample_fraction": "(weights, mask)",
    "group_advantages": "(scores_PK, *, kind)",
}
LOSSES = {
    "policy_loss": "(logprobs_BT, old_logprobs_BT, advantages_BT, *, clip_low, clip_high, dual_clip=None)",
    "value_loss": "(values_BT, old_values_BT, returns_BT, *, clip)",
    "rrhf_loss": "(logprobs_KT, mask_KT, scores_K, *, length_exponent=1.0, rank_weight=1.0, sft_weight=1.0, "
    "sft_reduction='sum', published_arithmetic=False)",
    "pairwise_loss": "(chosen_B, rejected_B, *, margin=0.0)",
    "ranking_loss": "(scores_K_best_first)",
}
REFERENCED = "(chosen, rejected, ref_chosen, ref_rejected"
PREFERENCE = {
    "dpo_loss": f"{REFERENCED}, *, beta, label_smoothing=0.0, robust=False)",
    "ipo_loss": f"{REFERENCED}, *, tau, chosen_lengths=None, rejected_lengths=None)",
    "hinge_loss": f"{REFERENCED}, *, beta)",
    "slic_loss": "(chosen, rejected, target, *, delta, weight)",
    "simpo_loss": "(chosen, rejected, chosen_lengths, rejected_lengths, *, beta, gamma, label_smoothing=0.0)",
    "cpo_loss": "(chosen, rejected, chosen_lengths, *, beta, alpha)",
    "orpo_loss": "(chosen, rejected, chosen_lengths, rejected_lengths, *, weight)",
    "rpo_loss": f"{REFERENCED}, chosen_lengths, *, beta, alpha)",
    "sppo_loss": f"{REFERENCED}, *, eta, kind, p_chosen=None, p_rejected=None)",
    "kto_loss": "(logps, ref_logps, desirable, kl_logps, kl_ref_logps, *, beta, desirable_weight=1.0, "
    "undesirable_weight=1.0)",
    "kto_pair_loss": f"{REFERENCED}, *, beta)",
    "win_probabilities": "(scores_K)",
}
SUMS = {
    "merge_tensors": "(tensors, weights)",
    "merge_lora": "(factors, weights, *, alpha, mode)",
    "merge_models": "(paths, weights, out)",
    "merge_adapters": "(paths, weights, out, *, mode, rank=None)",
}
SCORES = {"combine": "(scores_OB, weights_O, active_OB, *, kind, ideal_O=None)"}
ROOMS = {
    **dict.fromkeys(OPS, ops),
    **dict.fromkeys(PREFERENCE, preference),
    **dict.fromkeys(SUMS, merge),
    "combine": combine,
    "policy_loss": ppo,
    "value_loss": ppo,
    "rrhf_loss": rrhf,
    "pairwise_loss": reward,
    "ranking_loss": reward,
}
SIGNATURES = OPS | LOSSES | PREFERENCE | SUMS | SCORES


def plain(function: Any) -> str:
    """The signature without annotations."""
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize("name", SIGNATURES)
def test_functions_have_their_signatures(name: str) -> None:
    assert plain(getattr(ROOMS[name], name)) == SIGNATURES[name]


def test_the_policys_loss_is_one_function_for_its_family() -> None:
    assert ppo.policy_loss is policy_gradient.policy_loss


def test_what_a_ranking_loss_returns_has_its_fields() -> None:
    assert list(rrhf.RRHFLoss.__slots__) == ["total", "rank", "sft", "ranking_scores_K", "best"]


def test_controllers_and_moments_have_their_methods() -> None:
    assert plain(ops.AdaptiveKL) == "(initial, target, horizon)"
    assert plain(ops.AdaptiveKL.update) == "(self, observed_kl, n_samples)"
    assert plain(ops.RunningMoments.update) == "(self, x)"
    assert plain(ops.RunningMoments.var) == "(self, unbiased=True)"
    assert plain(ops.RunningMoments.normalize) == "(self, x)"
    moments = ops.RunningMoments(2.0, 3.0, 4.0).merge(ops.RunningMoments())
    assert (moments.mean, moments.var()) == (3.0, 4.0)
