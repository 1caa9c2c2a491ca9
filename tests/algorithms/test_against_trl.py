"""The offline losses against TRL's trainers: the same bigram model, rows and settings, the same value and gradient.

Known differences:
- CPO and RPO: TRL averages the fine-tuning term over the tokens of a batch, rayalign over the tokens of each answer and
  then over answers. They agree where the chosen answers are of one length, as here.
- ORPO: TRL computes in float32, and its fine-tuning term includes the prompt; only the odds ratio is compared.
- SLiC-HF: TRL's hinge (of its CPO) agrees where beta is 1; it averages the regulariser over tokens, rayalign sums it
  over those of an answer. They differ by the length of the chosen answers, which is one here.
- cDPO: TRL has label smoothing without a reference only; here the reference is uniform.
- KTO: each rank of TRL averages its own mismatched rows, and then the ranks their means.
- IPO by sums, SPPO by win probabilities and KTO's opposite estimates have no counterpart in TRL.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rayalign.algorithms.base import load
from rayalign.types import Outputs, Rollouts
from tests.algorithms.trl_stubs import VOCABULARY, Bigram, assert_equal, logprobs, table, trainer

pytest.importorskip("trl", minversion="1.16", reason="TRL is not installed")

PROMPT, CHOSEN = 3, 4
LENGTHS = (CHOSEN, 2, CHOSEN, 5, CHOSEN, 1)
"""of the answers: three pairs, the chosen one first"""
PAIRS = torch.tensor([0, 2, 4, 1, 3, 5])
"""rows as TRL has them: all chosen answers, then all rejected ones"""


@pytest.fixture
def rows() -> Rollouts:
    """Three pairs, or six single answers of which the odd ones answer other prompts."""
    place = torch.arange(PROMPT + max(LENGTHS))[None, :]
    attention_BT = (place < torch.tensor(LENGTHS)[:, None] + PROMPT).long()
    ids_BT = torch.randint(0, VOCABULARY, attention_BT.shape, generator=torch.Generator().manual_seed(5))
    nan = float("nan")
    return Rollouts(
        input_ids_BT=ids_BT,
        attention_mask_BT=attention_BT,
        policy_mask_BT=attention_BT * (place >= PROMPT),
        group_B=torch.tensor([0, 0, 1, 1, 2, 2]),
        preferences_B=torch.ones(6, dtype=torch.float64),
        desirable_B=torch.tensor([1.0, nan, 0.0, nan, 1.0, nan], dtype=torch.float64),
        logprobs_BT=logprobs(table(0), ids_BT),
        reference_logprobs_BT=logprobs(table(9), ids_BT),
    )


def ours(settings: Mapping[str, Any], rows: Rollouts, table_VV: Tensor) -> Tensor:
    """The mean loss by an algorithm of rayalign."""
    algorithm = load(settings)
    batch = algorithm.prepare(rows)
    loss = algorithm.loss("policy", Outputs(logprobs_BT=logprobs(table_VV, batch["input_ids_BT"])), batch)
    return loss.numerator / loss.normaliser


def dpo(rows: Rollouts, table_VV: Tensor, kinds: Mapping[str, float], **settings: Any) -> Tensor:
    """The loss of TRL's DPO trainer; `kinds` are its losses with their weights."""
    from trl import DPOTrainer

    sums_B = (rows.reference_logprobs_BT * rows.policy_mask_BT).sum(1)[PAIRS]
    inputs = {
        "input_ids": rows.input_ids_BT[PAIRS],
        "attention_mask": rows.attention_mask_BT[PAIRS],
        "completion_mask": rows.policy_mask_BT[PAIRS],
        "ref_chosen_logps": sums_B[:3],
        "ref_rejected_logps": sums_B[3:],
    }
    defaults = {"beta": 0.1, "label_smoothing": 0.0, "ld_alpha": None, "f_divergence_type": "reverse_kl"}
    weights = {"loss_types": list(kinds), "loss_weights": list(kinds.values())}
    switches = {"precompute_ref_logps": True, "use_weighting": False}
    stub = trainer(DPOTrainer, **defaults | weights | switches | settings)
    return stub._compute_loss(Bigram(table_VV), inputs, return_outputs=False)


DPO_LOSSES = (
    ({"name": "dpo", "beta": 0.3}, {"sigmoid": 1.0}, {"beta": 0.3}),
    (
        {"name": "dpo", "beta": 0.3, "label_smoothing": 0.1, "robust": True},
        {"robust": 1.0},
        {"beta": 0.3, "label_smoothing": 0.1},
    ),
    ({"name": "ipo", "tau": 0.6, "average": True}, {"ipo": 1.0}, {"beta": 0.6}),
    ({"name": "hinge", "beta": 0.3}, {"hinge": 1.0}, {"beta": 0.3}),
    ({"name": "sppo", "eta": 20.0, "kind": "hard"}, {"sppo_hard": 1.0}, {"beta": 0.05}),
    ({"name": "rpo", "beta": 0.3, "alpha": 0.7}, {"sigmoid": 1.0, "sft": 0.7}, {"beta": 0.3}),
)


@pytest.mark.parametrize(("settings", "kinds", "theirs"), DPO_LOSSES, ids=lambda x: x.get("name", "-"))
def test_losses_with_a_reference(rows: Rollouts, settings: Any, kinds: Any, theirs: Any) -> None:
    leaf = table(0).requires_grad_()
    assert_equal(ours(settings, rows, leaf), dpo(rows, leaf, kinds, **theirs), leaf)


def cpo(rows: Rollouts, table_VV: Tensor, **settings: Any) -> Tensor:
    """The loss of TRL's CPO trainer."""
    from trl.experimental.cpo import CPOTrainer

    batch = {}
    for side, first in (("chosen", 0), ("rejected", 1)):
        ids_BT, mask_BT = rows.input_ids_BT[first::2], rows.policy_mask_BT[first::2]
        batch[f"{side}_input_ids"] = ids_BT
        batch[f"{side}_attention_mask"] = rows.attention_mask_BT[first::2]
        batch[f"{side}_labels"] = ids_BT.masked_fill(mask_BT == 0, -100)
    defaults = {"beta": 0.1, "alpha": 0.0, "cpo_alpha": 0.0, "label_smoothing": 0.0, "simpo_gamma": 0.5}
    stub = trainer(CPOTrainer, is_encoder_decoder=False, pad_token_id=0, **defaults | settings)

    def model(input_ids: Tensor, **_: Any) -> SimpleNamespace:
        return Bigram(table_VV)(input_ids)

    return stub.get_batch_loss_metrics(model, batch)[0]


CPO_LOSSES = (
    ({"name": "cpo", "beta": 0.3, "alpha": 0.7}, {"loss_type": "sigmoid", "beta": 0.3, "cpo_alpha": 0.7}),
    (
        {"name": "simpo", "beta": 2.0, "gamma": 1.5, "label_smoothing": 0.1},
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.5, "label_smoothing": 0.1},
    ),
    ({"name": "slic", "delta": 1.0, "weight": 0.0}, {"loss_type": "hinge", "beta": 1.0}),
    ({"name": "slic", "delta": 1.0, "weight": 0.5}, {"loss_type": "hinge", "beta": 1.0, "cpo_alpha": 0.5 * CHOSEN}),
    (
        {"name": "dpo", "beta": 0.3, "label_smoothing": 0.1},
        {"loss_type": "sigmoid", "beta": 0.3, "label_smoothing": 0.1},
    ),
)


@pytest.mark.parametrize(("settings", "theirs"), CPO_LOSSES, ids=lambda x: x.get("name", "-"))
def test_losses_without_a_reference(rows: Rollouts, settings: Any, theirs: Any) -> None:
    rows.reference_logprobs_BT = torch.zeros_like(rows.reference_logprobs_BT)
    leaf = table(0).requires_grad_()
    assert_equal(ours(settings, rows, leaf), cpo(rows, leaf, **theirs), leaf)


def test_the_odds_ratio(rows: Rollouts) -> None:
    from trl.experimental.orpo import ORPOTrainer

    leaf = table(0).requires_grad_()
    mask_BT = rows.policy_mask_BT
    means_B = (logprobs(leaf, rows.input_ids_BT) * mask_BT).sum(1) / mask_BT.sum(1)
    odds = trainer(ORPOTrainer, beta=0.3).odds_ratio_loss(means_B[0::2], means_B[1::2])[0]
    theirs = -means_B[0::2].mean() - odds.mean()
    assert_equal(ours({"name": "orpo", "weight": 0.3}, rows, leaf), theirs, leaf, tolerance=1e-6)


def test_kto(rows: Rollouts) -> None:
    from trl import KTOTrainer

    ids_BT, mask_BT = rows.input_ids_BT, rows.policy_mask_BT
    reference_B = (rows.reference_logprobs_BT * mask_BT).sum(1)
    batch = {
        "input_ids": ids_BT[0::2],
        "attention_mask": rows.attention_mask_BT[0::2],
        "completion_mask": mask_BT[0::2],
        "KL_input_ids": ids_BT[1::2],
        "KL_attention_mask": rows.attention_mask_BT[1::2],
        "KL_completion_mask": mask_BT[1::2],
        "label": rows.desirable_B[0::2].bool(),
        "ref_logps": reference_B[0::2],
        "ref_KL_logps": reference_B[1::2],
    }
    weights = {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.5}
    switches = {"loss_type": "kto", "calculate_KL": True, "precompute_ref_logps": True}
    stub = trainer(KTOTrainer, **weights | switches)
    leaf = table(0).requires_grad_()
    theirs = stub._compute_loss(Bigram(leaf), batch, return_outputs=False)
    assert_equal(ours({"name": "kto", **weights}, rows, leaf), theirs, leaf)
    assert stub._metrics["train"]["kl"][0] > 0


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_reward_model(rows: Rollouts, margin: float) -> None:
    from trl import RewardTrainer

    leaf = torch.tensor([1.0, 0.5, -1.0, 2.0, 0.0, 0.0], dtype=torch.float64).requires_grad_()
    inputs = {"attention_mask": rows.attention_mask_BT, "margin": torch.full((3,), margin, dtype=torch.float64)}
    stub = trainer(RewardTrainer, args=SimpleNamespace(center_rewards_coefficient=None))
    theirs = stub.compute_loss(lambda **_: SimpleNamespace(logits=leaf[PAIRS, None]), inputs)
    rows.scores_B = torch.tensor([1.0, 0.0] * 3)
    algorithm = load({"name": "reward", "margin": margin})
    loss = algorithm.loss("reward", Outputs(scores_B=leaf), algorithm.prepare(rows))
    assert_equal(loss.numerator / loss.normaliser, theirs, leaf)
