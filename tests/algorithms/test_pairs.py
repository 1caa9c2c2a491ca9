"""What holds for every algorithm that learns from pairs, and the loss of each by hand."""

import math

import pytest
import torch

from rayalign.algorithms.base import load
from rayalign.types import Outputs, Rollouts

SETTINGS = (
    {"name": "dpo", "beta": 0.5},
    {"name": "dpo", "beta": 0.5, "label_smoothing": 0.2},
    {"name": "dpo", "beta": 0.5, "label_smoothing": 0.2, "robust": True},
    {"name": "ipo"},
    {"name": "ipo", "average": True},
    {"name": "simpo"},
    {"name": "orpo"},
    {"name": "hinge", "beta": 0.2},
    {"name": "slic", "delta": 3.0},
    {"name": "cpo"},
    {"name": "rpo", "beta": 0.5, "alpha": 2.0},
    {"name": "sppo", "eta": 8.0},
    {"name": "sppo", "eta": 8.0, "kind": "single"},
    {"name": "sppo", "eta": 8.0, "kind": "hard"},
)
LENGTHS = (3, 2, 4, 4)


def named(settings):
    return "-".join(map(str, settings.values()))


def rollouts(poison: float = 0.0) -> Rollouts:
    """Two pairs; the answers start after two tokens of prompt."""
    place = torch.arange(6)[None, :]
    attention_BT = (place < torch.tensor(LENGTHS)[:, None] + 2).long()
    mask_BT = attention_BT * (place >= 2)
    reference_BT = torch.full((4, 6), -1.0, dtype=torch.float64)
    reference_BT[2] = -0.5
    return Rollouts(
        input_ids_BT=torch.ones(4, 6, dtype=torch.long),
        attention_mask_BT=attention_BT,
        policy_mask_BT=mask_BT,
        group_B=torch.tensor([3, 3, 8, 8]),
        preferences_B=torch.tensor([1.0, 1.0, 0.75, 0.75], dtype=torch.float64),
        scores_B=torch.tensor([0.75, 0.25, 0.625, 0.5], dtype=torch.float64),
        reference_logprobs_BT=reference_BT.masked_fill(mask_BT == 0, poison),
    )


def outputs(mask_BT, poison: float = 0.0) -> Outputs:
    """Sums -1.5, -4, -2 and -6."""
    each_B1 = torch.tensor([[-0.5], [-2.0], [-0.5], [-1.5]], dtype=torch.float64)
    return Outputs(logprobs_BT=each_B1.expand(4, 6).masked_fill(mask_BT == 0, poison).requires_grad_())


def cost(z: float) -> float:
    return math.log1p(math.exp(-z))


def expectation(first, second) -> float:
    """The first pair is sure; the second has the probability 3/4. Each has its loss and that of the other order."""
    return first[0] + 0.75 * second[0] + 0.25 * second[1]


# reference sums -3, -2, -2, -4: log-ratios 1.5, -2, 0, -2, so h = 3.5 and 2; a = 2.5 and 4
BY_HAND = (
    ({"name": "dpo", "beta": 0.5}, expectation((cost(1.75),), (cost(1), cost(-1)))),
    ({"name": "ipo"}, expectation(((3.5 - 5) ** 2,), ((2 - 5) ** 2, (-2 - 5) ** 2))),
    ({"name": "simpo"}, expectation((cost(2 * 1.5 - 1),), (cost(2 * 1 - 1), cost(-2 - 1)))),
    ({"name": "simpo", "beta": 4.0, "gamma": 0.5}, expectation((cost(4 * 1.5 - 0.5),), (cost(3.5), cost(-4.5)))),
    ({"name": "hinge", "beta": 0.4}, expectation((0,), (1 - 0.8, 1 + 0.8))),
    # the log-probs of the pair's answers are -2 and -6
    ({"name": "slic", "delta": 3.0}, expectation((0.5 + 0.5 * 1.5,), (0.5 * 2, 7 + 0.5 * 6))),
    ({"name": "cpo", "alpha": 2.0}, expectation((cost(0.25) + 2 * 0.5,), (cost(0.4) + 2 * 0.5, cost(-0.4) + 2 * 1.5))),
    ({"name": "rpo", "beta": 0.5}, expectation((cost(1.75) + 0.5,), (cost(1) + 0.5, cost(-1) + 1.5))),
    # targets 2, -2 and 1, 0 by the shares; 4, -4 and 2, -2 by the probabilities 1 and 3/4
    ({"name": "sppo", "eta": 8.0}, ((1.5 - 2) ** 2 + 0) / 2 + ((0 - 1) ** 2 + (-2 - 0) ** 2) / 2),
    ({"name": "sppo", "eta": 8.0, "kind": "single"}, ((1.5 - 4) ** 2 + (-2 + 4) ** 2) / 2 + ((0 - 2) ** 2 + 0) / 2),
    (
        {"name": "sppo", "eta": 8.0, "kind": "hard"},
        expectation(((1.5 - 4) ** 2 + (-2 + 4) ** 2,), (4**2 + (-2 + 4) ** 2, (-2 - 4) ** 2 + 4**2)),
    ),
)


@pytest.mark.parametrize(("settings", "by_hand"), BY_HAND, ids=lambda x: named(x) if isinstance(x, dict) else "")
def test_loss_by_hand(settings, by_hand):
    algorithm = load(settings)
    batch = algorithm.prepare(rollouts())
    loss = algorithm.loss("policy", outputs(batch["policy_mask_BT"]), batch)
    assert loss.numerator.item() == pytest.approx(by_hand)
    assert loss.normaliser == algorithm.normaliser("policy", batch) == 2


# log-probs of the four answers -1.5, -4, -2, -6, over 3, 2, 4 and 4 tokens
REWARDS = (
    ({"name": "dpo", "beta": 0.5}, (0.75, -1, 0, -1)),
    ({"name": "hinge", "beta": 0.5}, (0.75, -1, 0, -1)),
    ({"name": "rpo", "beta": 0.5}, (0.75, -1, 0, -1)),
    ({"name": "slic"}, (-1.5, -4, -2, -6)),
    ({"name": "cpo"}, (-0.15, -0.4, -0.2, -0.6)),
    ({"name": "simpo"}, (-1, -4, -1, -3)),
    ({"name": "orpo"}, (-0.05, -0.2, -0.05, -0.15)),
    ({"name": "ipo"}, (0.15, -0.2, 0, -0.2)),
    ({"name": "ipo", "average": True}, (0.05, -0.1, 0, -0.05)),
    ({"name": "sppo", "eta": 2.0}, (0.75, -1, 0, -1)),
)


@pytest.mark.parametrize(("settings", "rewards"), REWARDS, ids=lambda x: named(x) if isinstance(x, dict) else "")
def test_implicit_rewards_by_hand(settings, rewards):
    algorithm = load(settings)
    batch = algorithm.prepare(rollouts())
    metrics = algorithm.loss("policy", outputs(batch["policy_mask_BT"]), batch).metrics
    chosen, rejected = sum(rewards[::2]) / 2, sum(rewards[1::2]) / 2
    assert metrics["preference/chosen_reward"].value == pytest.approx(chosen)
    assert metrics["preference/rejected_reward"].value == pytest.approx(rejected)
    assert metrics["preference/margin"].value == pytest.approx(chosen - rejected)


def test_orpo_by_hand():
    def odds(mean: float) -> float:
        return math.exp(mean) / (1 - math.exp(mean))

    def loss_of(chosen: float, rejected: float) -> float:
        return -chosen + 0.1 * cost(math.log(odds(chosen) / odds(rejected)))

    algorithm = load({"name": "orpo"})
    batch = algorithm.prepare(rollouts())
    loss = algorithm.loss("policy", outputs(batch["policy_mask_BT"]), batch)
    expected = expectation((loss_of(-0.5, -2.0),), (loss_of(-0.5, -1.5), loss_of(-1.5, -0.5)))
    assert loss.numerator.item() == pytest.approx(expected)


def test_metrics_are_means_over_pairs():
    algorithm = load({"name": "dpo", "beta": 0.5})
    batch = algorithm.prepare(rollouts())
    metrics = algorithm.loss("policy", outputs(batch["policy_mask_BT"]), batch).metrics
    assert metrics.keys() == algorithm.metrics
    assert {name: (metric.value, metric.weight) for name, metric in metrics.items()} == {
        "loss/policy": (pytest.approx(BY_HAND[0][1] / 2), 2),
        "preference/margin": (pytest.approx(0.5 * (3.5 + 2) / 2), 2),
        "preference/accuracy": (1.0, 2),
        "preference/chosen_reward": (pytest.approx(0.5 * (1.5 + 0) / 2), 2),
        "preference/rejected_reward": (pytest.approx(0.5 * (-2 - 2) / 2), 2),
        "preference/chosen_logprob": (pytest.approx((-1.5 - 2) / 2), 2),
        "preference/rejected_logprob": (pytest.approx((-4 - 6) / 2), 2),
    }


@pytest.mark.parametrize("settings", SETTINGS, ids=named)
def test_a_split_into_pairs_changes_neither_sum_nor_gradient(settings):
    algorithm = load(settings)
    batch = algorithm.prepare(rollouts())
    whole_outputs = outputs(batch["policy_mask_BT"])
    whole = algorithm.loss("policy", whole_outputs, batch)
    total = 0.0
    for rows in (torch.tensor([2, 3]), torch.tensor([0, 1])):
        part = Outputs(logprobs_BT=whole_outputs.logprobs_BT[rows])
        total = total + algorithm.loss("policy", part, batch.rows(rows)).numerator
    leaf = whole_outputs.logprobs_BT
    torch.testing.assert_close(total, whole.numerator)
    torch.testing.assert_close(torch.autograd.grad(total, leaf), torch.autograd.grad(whole.numerator, leaf))


@pytest.mark.parametrize("settings", SETTINGS, ids=named)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_prompts_and_padding_have_no_influence(settings, poison):
    algorithm = load(settings)
    gradients = []
    for fill in (0.0, poison):
        batch = algorithm.prepare(rollouts(fill))
        made = outputs(batch["policy_mask_BT"], fill)
        loss = algorithm.loss("policy", made, batch).numerator
        gradients.append((loss, torch.autograd.grad(loss, made.logprobs_BT)[0]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)


@pytest.mark.parametrize("settings", SETTINGS, ids=named)
def test_it_gets_by_with_what_it_asks_for(settings):
    algorithm, given = load(settings), rollouts()
    assert algorithm.unit == "pair"
    assert ("reference" in algorithm.roles) == ("reference_logprobs" in algorithm.needs)
    if "reference_logprobs" not in algorithm.needs:
        given.reference_logprobs_BT = None
    if "scores" not in algorithm.needs:
        given.scores_B = None
    assert len(algorithm.prepare(given)) == 4


@pytest.mark.parametrize("settings", SETTINGS, ids=named)
def test_no_pair_costs_nothing(settings):
    algorithm = load(settings)
    batch = algorithm.prepare(rollouts()).rows(torch.empty(0, dtype=torch.long))
    loss = algorithm.loss("policy", Outputs(logprobs_BT=torch.zeros(0, 6)), batch)
    assert (loss.numerator.item(), loss.normaliser) == (0.0, 0.0)
