import math

import pytest
import torch

from rayalign.algorithms.base import load
from rayalign.algorithms.rrhf import rrhf_loss
from rayalign.types import Batch, Outputs

NAN = math.nan
LOGPROBS = torch.tensor([[9, -1, -1, 9, 9], [9, -2, -2, -2, -2], [9, -6, 9, 9, 9]], dtype=torch.float64)
MASK = torch.tensor([[0, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 1, 0, 0, 0]])
"""mean log-probs -1, -2, -6; sums -2, -8, -6"""


def scores(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand():
    loss = rrhf_loss(LOGPROBS, MASK, scores(1, 2, 3))
    assert loss.ranking_scores_K.tolist() == [-1, -2, -6]
    assert (loss.rank, loss.sft, loss.total, loss.best) == (1 + 5 + 4, 6, 16, 2)
    weighted = rrhf_loss(LOGPROBS, MASK, scores(1, 3, 2), rank_weight=2, sft_weight=0.5, sft_reduction="mean")
    assert (weighted.rank, weighted.sft, weighted.total, weighted.best) == (1 + 5, 2, 13, 1)
    assert weighted.total.dtype == torch.float64


def test_length_exponent():
    loss = rrhf_loss(LOGPROBS, MASK, scores(1, 2, 3), length_exponent=0.5)
    torch.testing.assert_close(loss.ranking_scores_K, scores(-(2**0.5), -4, -6))


def test_the_right_order_costs_nothing_but_the_best_answer():
    loss = rrhf_loss(LOGPROBS, MASK, scores(3, 2, 1))
    assert (loss.rank, loss.total) == (0, 2)


def test_equal_scores_make_no_pair_and_the_first_is_best():
    loss = rrhf_loss(LOGPROBS, MASK, scores(2, 5, 5))
    assert (loss.rank, loss.best) == (1 + 5, 1)
    assert rrhf_loss(LOGPROBS, MASK, scores(1, 1, 1)).rank == 0


@pytest.mark.parametrize("size", [1, 2])
def test_any_number_of_candidates(size):
    loss = rrhf_loss(LOGPROBS[:size], MASK[:size], scores(1, 2)[:size])
    assert (loss.rank, loss.sft) == ((0, 2), (1, 8))[size - 1]


def test_an_absent_candidate_counts_like_one_that_is_not_there():
    logprobs = LOGPROBS.clone().requires_grad_()
    loss = rrhf_loss(logprobs, MASK, scores(1, NAN, 3))
    assert (loss.rank, loss.sft, loss.best, loss.ranking_scores_K.tolist()) == (5, 6, 2, [-1, 0, -6])
    assert (torch.autograd.grad(loss.total, logprobs)[0][1] == 0).all()
    empty = rrhf_loss(LOGPROBS, MASK * torch.tensor([[1], [1], [0]]), scores(1, 2, 3))
    assert (empty.rank, empty.best) == (1, 1)
    nothing = rrhf_loss(LOGPROBS, MASK, scores(NAN, NAN, NAN))
    assert (nothing.total, nothing.best) == (0, -1)


def test_rank_gradient_is_one_over_the_true_length_on_violating_pairs():
    logprobs = LOGPROBS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(rrhf_loss(logprobs, MASK, scores(1, 3, 2), sft_weight=0.0).total, logprobs)
    # 0 stands above 1 and above 2, which is below 1 as it should be
    torch.testing.assert_close(gradient, MASK * torch.tensor([[2 / 2], [-1 / 4], [-1 / 1]], dtype=torch.float64))


@pytest.mark.parametrize("poison", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("published", [False, True])
def test_masked_tokens_have_no_influence(poison, published):
    found = []
    for fill in (0.0, poison):
        logprobs = LOGPROBS.masked_fill(MASK == 0, fill).requires_grad_()
        loss = rrhf_loss(logprobs, MASK, scores(1, 2, NAN), published_arithmetic=published)
        found.append((loss.total, torch.autograd.grad(loss.total, logprobs)[0]))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_published_arithmetic_divides_by_the_padded_row():
    """Against the shape of the authors' code: labels are overwritten before lengths are counted."""
    gathered = LOGPROBS * MASK
    labels = torch.zeros_like(MASK)  # what is left of -100
    scored = gathered.sum(-1) / (labels != -100).sum(-1) ** 1.0
    wanted = scores(1, 2, 3)
    gaps, order = scored[None, :] - scored[:, None], wanted[None, :] - wanted[:, None]
    rank = -gaps[(order > 0) & (gaps < 0)].sum()
    loss = rrhf_loss(LOGPROBS, MASK, wanted, published_arithmetic=True)
    torch.testing.assert_close(loss.ranking_scores_K, scored)
    assert (loss.rank.item(), loss.sft) == (pytest.approx(rank.item()), -gathered[2].mean())
    assert loss.rank.item() == pytest.approx((6 + 4) / 5)  # by sums: the short bad answer passes the long one


def test_published_arithmetic_does_not_depend_on_neighbours(make_rollouts, make_outputs):
    algorithm = load({"name": "rrhf", "published_arithmetic": True})
    batch = algorithm.prepare(make_rollouts())
    logprobs = make_outputs(batch["policy_mask_BT"]).logprobs_BT
    wide = algorithm.loss("policy", Outputs(logprobs_BT=logprobs), batch)
    rows = torch.tensor([3, 4])  # 6 and 4 tokens long, in a batch of 8
    alone = algorithm.loss("policy", Outputs(logprobs_BT=logprobs[rows]), batch.rows(rows))
    short = rrhf_loss(
        logprobs[rows, :6], batch["policy_mask_BT"][rows, :6], batch["scores_B"][rows], published_arithmetic=True
    )
    assert alone.numerator == short.total and wide.numerator > short.total


def test_prepare_drops_absent_candidates_and_reports(make_rollouts):
    rollouts = make_rollouts()
    rollouts.scores_B[1] = NAN
    batch = load({"name": "rrhf"}).prepare(rollouts)
    assert batch.unit_B.tolist() == [0, 0, 1, 1, 2]
    assert batch["scores_B"].tolist() == [1, 2, 0.5, 0.5, -1]
    assert batch.metrics["reward/max"].value == 0.5 and batch.metrics["reward/mean"].value == pytest.approx(3 / 5)
    assert load({"name": "rrhf"}).normaliser("policy", batch) == 3


def test_kl_is_taken_off_the_score(make_rollouts):
    rollouts = make_rollouts(NAN)
    algorithm = load({"name": "rrhf", "kl_coefficient": 0.5})
    batch = algorithm.prepare(rollouts)
    kl = (rollouts.logprobs_BT - rollouts.reference_logprobs_BT).masked_fill(rollouts.policy_mask_BT == 0, 0).sum(1)
    torch.testing.assert_close(batch["scores_B"], rollouts.scores_B - 0.5 * kl)
    assert batch.metrics["kl/reference"].value == pytest.approx(kl.mean().item())
    assert batch.metrics["reward/max"].value == pytest.approx((3 + 0.5 - 1) / 3)
    assert algorithm.roles == {"policy", "reference"}
    assert algorithm.needs == {"scores", "logprobs", "reference_logprobs"}
    assert load({"name": "rrhf"}).roles == {"policy"}


def test_loss_sums_over_groups_and_counts_pairs(make_rollouts, make_outputs):
    algorithm = load({"name": "rrhf"})
    batch = algorithm.prepare(make_rollouts())
    logprobs = make_outputs(batch["policy_mask_BT"]).logprobs_BT
    loss = algorithm.loss("policy", Outputs(logprobs_BT=logprobs), batch)
    parts = [
        rrhf_loss(logprobs[rows], batch["policy_mask_BT"][rows], batch["scores_B"][rows])
        for rows in (slice(0, 3), slice(3, 5), slice(5, 6))
    ]
    torch.testing.assert_close(loss.numerator, sum(p.total for p in parts))
    assert loss.metrics["loss/sft"].value == pytest.approx(sum(p.sft for p in parts).item() / 3)
    first = parts[0].ranking_scores_K.tolist()
    wrong = sum(first[better] < first[worse] for better, worse in ((1, 0), (1, 2), (2, 0)))
    assert loss.metrics["rrhf/violations"].value == pytest.approx(wrong / 3)
    assert loss.metrics["rrhf/pair_accuracy"].value == pytest.approx(1 - wrong / 3)
    assert loss.metrics["rrhf/violations"].weight == 3


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("length_exponent", 0.5),
        ("rank_weight", 3.0),
        ("sft_weight", 0.25),
        ("sft_reduction", "mean"),
        ("published_arithmetic", True),
    ],
)
def test_every_setting_reaches_the_loss(make_rollouts, make_outputs, setting, value):
    algorithm, plain = load({"name": "rrhf", setting: value}), load({"name": "rrhf"})
    batch = algorithm.prepare(make_rollouts())
    logprobs = make_outputs(batch["policy_mask_BT"]).logprobs_BT
    expected = 0.0
    for rows in (slice(0, 3), slice(3, 5), slice(5, 6)):
        width = int(batch["attention_mask_BT"][rows].sum(1).max())
        mask = batch["policy_mask_BT"][rows, :width]
        expected += rrhf_loss(logprobs[rows, :width], mask, batch["scores_B"][rows], **{setting: value}).total
    loss = algorithm.loss("policy", Outputs(logprobs_BT=logprobs), batch)
    torch.testing.assert_close(loss.numerator, expected)
    assert plain.loss("policy", Outputs(logprobs_BT=logprobs), batch).numerator != loss.numerator


def test_passes_are_the_epochs():
    assert load({"name": "rrhf"}).passes == 1
    assert load({"name": "rrhf", "epochs": 3}).passes == 3


def test_a_batch_without_a_scored_candidate_costs_nothing(make_rollouts, make_outputs):
    rollouts = make_rollouts()
    rollouts.scores_B[:] = math.nan
    algorithm = load({"name": "rrhf"})
    batch = algorithm.prepare(rollouts)
    assert len(batch) == 0
    loss = algorithm.loss("policy", make_outputs(batch["policy_mask_BT"]), batch)
    assert (loss.numerator.item(), loss.normaliser) == (0.0, 0.0)


def batch_of(ranking: torch.Tensor) -> Batch:
    """The three candidates above as one group, with these scores."""
    attention_KT = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    tensors = {"attention_mask_BT": attention_KT, "policy_mask_BT": MASK, "scores_B": ranking}
    return Batch(tensors, torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize(
    ("settings", "by_hand"),
    [
        ({}, 6 + 8),
        ({"rank_weight": 2.0}, 2 * 6 + 8),
        ({"sft_weight": 0.5}, 6 + 0.5 * 8),
        ({"sft_reduction": "mean"}, 6 + 2),
        ({"length_exponent": 0.5}, (4 - 2**0.5) + (6 - 2**0.5) + 8),
        ({"length_exponent": 0.0}, (8 - 2) + (6 - 2) + 8 + (8 - 6)),
    ],
)
def test_each_setting_reaches_the_loss_of_a_group(settings, by_hand):
    algorithm = load({"name": "rrhf", **settings})
    loss = algorithm.loss("policy", Outputs(logprobs_BT=LOGPROBS), batch_of(scores(1, 3, 2)))
    assert loss.numerator.item() == pytest.approx(by_hand)


def test_a_rollout_batch_is_passed_over_once_for_each_epoch():
    assert load({"name": "rrhf"}).passes == 1 and load({"name": "rrhf", "epochs": 3}).passes == 3
