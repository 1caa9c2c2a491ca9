"""Values by hand, gradients against finite differences, float64 throughout."""

import math

import pytest
import torch

from rayalign.algorithms import preference
from rayalign.errors import InputError


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def cost(z: float) -> float:
    return math.log1p(math.exp(-z))


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


# one pair: a = 4, reference margin 1, h = 3; means over 5 and 4 tokens: -2 and -3.5
CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED = tensor(-10), tensor(-14), tensor(-12), tensor(-13)
SUMS = (CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED)
LENGTHS = (tensor(5), tensor(4))


def test_dpo():
    assert preference.dpo_loss(*SUMS, beta=0.5).tolist() == pytest.approx([cost(1.5)])
    smoothed = preference.dpo_loss(*SUMS, beta=0.5, label_smoothing=0.2)
    assert smoothed.tolist() == pytest.approx([0.8 * cost(1.5) + 0.2 * cost(-1.5)])
    robust = preference.dpo_loss(*SUMS, beta=0.5, label_smoothing=0.2, robust=True)
    assert robust.tolist() == pytest.approx([(0.8 * cost(1.5) - 0.2 * cost(-1.5)) / 0.6])
    assert preference.dpo_loss(*(1000 * x for x in SUMS), beta=1.0).tolist() == [0.0]


@pytest.mark.parametrize("label_smoothing", [0.5, 0.7])
def test_robust_dpo_refuses_labels_that_tell_nothing(label_smoothing):
    with pytest.raises(InputError, match=r"label_smoothing below 0\.5, this is 0\.[57]"):
        preference.dpo_loss(*SUMS, beta=0.5, label_smoothing=label_smoothing, robust=True)
    assert preference.dpo_loss(*SUMS, beta=0.5, label_smoothing=label_smoothing).isfinite().all()


def test_robust_dpo_is_unbiased_under_flips():
    forward = preference.dpo_loss(*SUMS, beta=0.5, label_smoothing=0.3, robust=True)
    backward = preference.dpo_loss(
        REJECTED, CHOSEN, REF_REJECTED, REF_CHOSEN, beta=0.5, label_smoothing=0.3, robust=True
    )
    clean = preference.dpo_loss(*SUMS, beta=0.5)
    torch.testing.assert_close(0.7 * forward + 0.3 * backward, clean)


def test_ipo():
    assert preference.ipo_loss(*SUMS, tau=0.1).tolist() == pytest.approx([(3 - 5) ** 2])
    # means: (2 / 5) - (-1 / 4)
    averaged = preference.ipo_loss(*SUMS, tau=0.5, chosen_lengths=LENGTHS[0], rejected_lengths=LENGTHS[1])
    assert averaged.tolist() == pytest.approx([(0.65 - 1) ** 2])


def test_hinge():
    assert preference.hinge_loss(*SUMS, beta=0.1).tolist() == pytest.approx([0.7])
    assert preference.hinge_loss(*SUMS, beta=1.0).tolist() == [0.0]


def test_slic():
    assert preference.slic_loss(CHOSEN, REJECTED, tensor(-8), delta=5.0, weight=0.5).tolist() == pytest.approx([1 + 4])
    assert preference.slic_loss(CHOSEN, REJECTED, tensor(-8), delta=1.0, weight=0.5).tolist() == pytest.approx([4])


def test_simpo():
    found = preference.simpo_loss(CHOSEN, REJECTED, *LENGTHS, beta=2.0, gamma=0.5)
    assert found.tolist() == pytest.approx([cost(2.5)])
    smoothed = preference.simpo_loss(CHOSEN, REJECTED, *LENGTHS, beta=2.0, gamma=0.5, label_smoothing=0.1)
    assert smoothed.tolist() == pytest.approx([0.9 * cost(2.5) + 0.1 * cost(-2.5)])


def test_cpo():
    found = preference.cpo_loss(CHOSEN, REJECTED, LENGTHS[0], beta=0.1, alpha=0.5)
    assert found.tolist() == pytest.approx([cost(0.4) + 0.5 * 2])


def test_orpo():
    odds = [math.exp(m) / (1 - math.exp(m)) for m in (-2, -3.5)]
    found = preference.orpo_loss(CHOSEN, REJECTED, *LENGTHS, weight=0.1)
    assert found.tolist() == pytest.approx([2 + 0.1 * cost(math.log(odds[0] / odds[1]))])


def test_orpo_stays_finite_where_an_answer_becomes_certain():
    chosen = tensor(0.0, -1e-300, -1e-12, -1e-3).requires_grad_()
    loss = preference.orpo_loss(chosen, tensor(-5, -5, -5, -5), tensor(1, 1, 1, 1), tensor(1, 1, 1, 1), weight=0.1)
    assert loss.isfinite().all()
    assert torch.autograd.grad(loss.sum(), chosen)[0].isfinite().all()


def test_rpo():
    found = preference.rpo_loss(*SUMS, LENGTHS[0], beta=0.5, alpha=2.0)
    assert found.tolist() == pytest.approx([cost(1.5) + 2 * 2])


def test_sppo():
    # d_chosen = 2, d_rejected = -1
    soft = preference.sppo_loss(*SUMS, eta=10.0, kind="soft", p_chosen=tensor(0.7), p_rejected=tensor(0.4))
    assert soft.tolist() == pytest.approx([((2 - 2) ** 2 + (-1 + 1) ** 2) / 2])
    single = preference.sppo_loss(*SUMS, eta=10.0, kind="single", p_chosen=tensor(0.6))
    assert single.tolist() == pytest.approx([((2 - 1) ** 2 + (-1 + 1) ** 2) / 2])
    hard = preference.sppo_loss(*SUMS, eta=10.0, kind="hard")
    assert hard.tolist() == pytest.approx([(2 - 5) ** 2 + (-1 + 5) ** 2])


@pytest.mark.parametrize(("kind", "message"), [("firm", "is not known"), ("soft", "needs win probabilities")])
def test_sppo_refuses_what_it_cannot_compute(kind, message):
    with pytest.raises(InputError, match=message):
        preference.sppo_loss(*SUMS, eta=10.0, kind=kind)


def test_kto():
    logps, ref = tensor(-10, -14), tensor(-12, -13)
    kl_logps, kl_ref = tensor(-5, -5), tensor(-6, -5)  # mean 0.5
    found = preference.kto_loss(
        logps, ref, torch.tensor([True, False]), kl_logps, kl_ref, beta=0.1, undesirable_weight=2.0
    )
    assert found.tolist() == pytest.approx([1 - sigmoid(0.1 * 1.5), 2 * (1 - sigmoid(0.1 * 1.5))])
    clamped = preference.kto_loss(logps, ref, torch.tensor([True, False]), kl_ref - 9, kl_ref, beta=0.1)
    assert clamped.tolist() == pytest.approx([1 - sigmoid(0.2), 1 - sigmoid(0.1)])


def test_kto_on_pairs():
    found = preference.kto_pair_loss(*SUMS, beta=0.1)
    # the chosen answers' KL estimate is 2, that of the rejected -1, held at 0
    assert found.tolist() == pytest.approx([1 - sigmoid(0.1 * 2), 1 - sigmoid(0.1 * (2 + 1))])


def test_win_probabilities():
    found = preference.win_probabilities(tensor(1, 0))
    assert found.tolist() == [[0.5, pytest.approx(sigmoid(1))], [pytest.approx(sigmoid(-1)), 0.5]]


def test_an_absent_score_is_even_with_itself_alone():
    found = preference.win_probabilities(tensor(math.nan, 1, math.inf))
    assert found.diagonal().tolist() == [0.5, 0.5, 0.5]
    assert found[0, 1:].isnan().all() and found[1:, 0].isnan().all()
    assert found[1, 2] == 0 and found[2, 1] == 1


NAN = math.nan
COMPARED = torch.tensor([[9.0, 2.0, -1.0], [-2.0, NAN, 0.5], [3.0, 0.5, 4.0]], dtype=torch.float64)
"""scores of a pairwise model, the row's candidate read first; what stands on the diagonal does not count"""


def test_comparison_probabilities_by_hand():
    matrix = preference.comparison_probabilities(COMPARED)
    assert matrix.tolist() == [
        [0.5, pytest.approx(sigmoid(2)), pytest.approx(sigmoid(-2))],
        [pytest.approx(sigmoid(-2)), 0.5, 0.5],
        [pytest.approx(sigmoid(2)), 0.5, 0.5],
    ]


def test_comparison_probabilities_of_both_orders_add_up_to_one():
    scores = 5 * torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = preference.comparison_probabilities(scores)
    torch.testing.assert_close(matrix + matrix.T, torch.ones_like(matrix), atol=1e-15, rtol=0)
    assert (matrix.diagonal() == 0.5).all()
    swapped = scores.clone()
    swapped[0, 1], swapped[1, 0] = scores[1, 0], scores[0, 1]
    assert preference.comparison_probabilities(swapped)[0, 1] == matrix[1, 0]


def test_a_third_candidate_changes_no_probability():
    matrix = preference.comparison_probabilities(COMPARED)
    assert torch.equal(preference.comparison_probabilities(COMPARED[:2, :2]), matrix[:2, :2])


def test_mean_win_probabilities_are_those_against_the_others():
    matrix = torch.tensor([[0.5, 0.9, 0.6], [0.1, 0.5, 0.8], [0.4, 0.2, 0.5]], dtype=torch.float64)
    assert preference.mean_win_probabilities(matrix).tolist() == pytest.approx([0.75, 0.45, 0.3])


def test_absent_comparisons_do_not_count_and_nobody_to_beat_is_no_score():
    scores = COMPARED.clone()
    scores[0, 1] = NAN  # one order is enough to lose the comparison
    matrix = preference.comparison_probabilities(scores)
    assert matrix[0, 1].isnan() and matrix[1, 0].isnan() and not matrix[0, 2].isnan()
    assert preference.mean_win_probabilities(matrix).tolist() == pytest.approx(
        [sigmoid(-2), 0.5, (sigmoid(2) + 0.5) / 2]
    )
    assert preference.mean_win_probabilities(tensor([0.5])).isnan().tolist() == [True]


LOSSES = {
    "dpo": lambda c, r, *_: preference.dpo_loss(c, r, *REFS, beta=0.3, label_smoothing=0.1),
    "rdpo": lambda c, r, *_: preference.dpo_loss(c, r, *REFS, beta=0.3, label_smoothing=0.1, robust=True),
    "ipo": lambda c, r, *_: preference.ipo_loss(c, r, *REFS, tau=0.2),
    "ipo-mean": lambda c, r, *n: preference.ipo_loss(c, r, *REFS, tau=0.2, chosen_lengths=n[0], rejected_lengths=n[1]),
    "hinge": lambda c, r, *_: preference.hinge_loss(c, r, *REFS, beta=0.3),
    "slic": lambda c, r, *_: preference.slic_loss(c, r, c, delta=2.5, weight=0.5),
    "simpo": lambda c, r, *n: preference.simpo_loss(c, r, *n, beta=2.0, gamma=0.5, label_smoothing=0.1),
    "cpo": lambda c, r, *n: preference.cpo_loss(c, r, n[0], beta=0.3, alpha=0.7),
    "orpo": lambda c, r, *n: preference.orpo_loss(c, r, *n, weight=0.3),
    "rpo": lambda c, r, *n: preference.rpo_loss(c, r, *REFS, n[0], beta=0.3, alpha=0.7),
    "sppo-soft": lambda c, r, *_: preference.sppo_loss(
        c, r, *REFS, eta=3.0, kind="soft", p_chosen=tensor(0.6, 0.7), p_rejected=tensor(0.3, 0.5)
    ),
    "sppo-hard": lambda c, r, *_: preference.sppo_loss(c, r, *REFS, eta=3.0, kind="hard"),
}
REFS = (tensor(-3.1, -4.2), tensor(-2.9, -5.0))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    chosen, rejected = tensor(-2.0, -4.5).requires_grad_(), tensor(-3.3, -4.1).requires_grad_()
    lengths = (tensor(3, 2), tensor(4, 5))
    before = chosen.detach().clone()
    assert torch.autograd.gradcheck(lambda c, r: LOSSES[name](c, r, *lengths), (chosen, rejected))
    assert LOSSES[name](chosen, rejected, *lengths).dtype == torch.float64
    assert torch.equal(chosen, before)


def test_the_kl_estimate_of_kto_carries_no_gradient():
    logps, kl_logps = tensor(-2.0, -4.5).requires_grad_(), tensor(-1.0, -1.5).requires_grad_()
    loss = preference.kto_loss(logps, REFS[0], torch.tensor([1, 0]), kl_logps, tensor(-2.0, -2.0), beta=0.3)
    gradients = torch.autograd.grad(loss.sum(), (logps, kl_logps), allow_unused=True)
    assert gradients[0].abs().min() > 0 and gradients[1] is None
    pairs = tensor(-2.0, -4.5).requires_grad_()
    kl = float((pairs.detach() - REFS[0]).mean().clamp(min=0))
    assert kl > 0  # the estimate that the rejected half would pass to the chosen half
    total = preference.kto_pair_loss(pairs, tensor(-3.3, -4.1), *REFS, beta=0.3)[:2].sum()
    assert torch.autograd.grad(total, pairs)[0].shape == (2,)
