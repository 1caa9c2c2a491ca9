import math

import pytest
import torch

from rayalign.algorithms.base import load
from rayalign.algorithms.online_dpo import ranked_pairs
from rayalign.types import Outputs, Rollouts


@pytest.mark.parametrize(
    ("scores", "pairs"),
    [
        ([1.0, 4.0, 3.0, 2.0], [1, 0, 2, 3]),
        ([1.0, 4.0, 3.0], [1, 0]),
        ([2.0, 2.0], []),
        ([2.0, 2.0, 2.0, 5.0], [3, 2]),
        ([math.nan, 1.0, 2.0], [2, 1]),
        ([math.nan, 1.0], []),
    ],
)
def test_the_best_meets_the_worst_and_so_on_inwards(scores: list[float], pairs: list[int]) -> None:
    assert ranked_pairs(torch.arange(len(scores)), torch.tensor(scores)).tolist() == pairs


def groups(*scores: float) -> Rollouts:
    """Two candidates of each prompt; log-probs of the reference are 0, 1, 2 ... less than nothing."""
    count = len(scores)
    mask = torch.tensor([[0, 1]] * count)
    rollouts = Rollouts(mask, mask, mask, torch.arange(count) // 2, torch.tensor(scores).double())
    rollouts.input_ids_BT = torch.arange(2 * count).reshape(count, 2)
    rollouts.reference_logprobs_BT = -torch.arange(count).double()[:, None] * mask
    return rollouts


def test_the_loss_is_that_of_dpo_on_the_pairs() -> None:
    algorithm = load({"name": "online_dpo", "beta": 0.5})
    batch = algorithm.prepare(groups(1.0, 3.0, 2.0, 2.0, 5.0, 0.0))
    assert batch["input_ids_BT"][:, 0].tolist() == [2, 0, 8, 10]
    assert batch.unit_B.tolist() == [0, 0, 1, 1]
    assert batch.metrics["reward/zero_variance"].value == pytest.approx(1 / 3)
    assert batch.metrics["reward/mean"].value == pytest.approx(13 / 6)
    logprobs = torch.tensor([-1.0, -2.0, -3.0, -4.0]).double()[:, None] * batch["policy_mask_BT"]
    loss = algorithm.loss("policy", Outputs(logprobs_BT=logprobs), batch)
    # margins of log-ratios: (-1 + 1) - (-2 + 0) = 2 and (-3 + 4) - (-4 + 5) = 0
    assert loss.numerator.item() == pytest.approx(math.log1p(math.exp(-0.5 * 2)) + math.log(2))
    assert loss.normaliser == 2


def test_without_any_pair_the_batch_is_empty() -> None:
    batch = load({"name": "online_dpo"}).prepare(groups(1.0, 1.0))
    assert len(batch) == 0
    assert batch.metrics["reward/zero_variance"].value == 1.0


def test_what_it_needs_and_reports() -> None:
    algorithm = load({"name": "online_dpo", "epochs": 2})
    assert algorithm.needs == {"scores", "reference_logprobs"}
    assert (algorithm.passes, algorithm.fewest_candidates, algorithm.unit) == (2, 2, "pair")
    assert algorithm.prepare(groups(1.0, 3.0)).metrics.keys() <= algorithm.metrics
