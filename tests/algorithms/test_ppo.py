import math

import pytest
import torch

from rayalign.algorithms.base import load
from rayalign.algorithms.ppo import value_loss
from rayalign.errors import InputError
from rayalign.types import Batch, Outputs, Rollouts

LOG2, LOG3 = math.log(2), math.log(3)


def small(**changes) -> Rollouts:
    """Two answers of two tokens and one token; the reference gives each token e times less."""
    mask = torch.tensor([[0, 1, 1], [0, 1, 0]])
    logprobs = torch.tensor([[0, -1.0, -2.0], [0, -3.0, 0]], dtype=torch.float64)
    rollouts = Rollouts(mask, mask, mask, torch.zeros(2), torch.tensor([4.0, 1.0], dtype=torch.float64))
    rollouts.logprobs_BT = rollouts.behaviour_logprobs_BT = logprobs
    rollouts.reference_logprobs_BT = logprobs - 1
    rollouts.values_BT = torch.tensor([[0, 1.0, 2.0], [0, 0.5, 0]], dtype=torch.float64)
    rollouts.ended_B = torch.tensor([1, 0])
    for name, value in changes.items():
        setattr(rollouts, name, value)
    return rollouts


def prepared(rollouts: Rollouts | None = None, **settings) -> Batch:
    defaults = {"name": "ppo", "lam": 1.0, "kl_coefficient": 0.5, "whiten_advantages": False}
    return load(defaults | settings).prepare(rollouts or small())


def test_value_loss_is_the_larger_of_plain_and_clipped():
    values, old, returns = torch.tensor([2.0, 2.0, 1.1]), torch.ones(3), torch.tensor([3.0, 1.0, 2.0])
    loss = value_loss(values, old, returns, clip=0.5)
    torch.testing.assert_close(loss, torch.tensor([2.25, 1.0, 0.81]) / 2)
    torch.testing.assert_close(value_loss(values, old, returns, clip=None), torch.tensor([1.0, 1.0, 0.81]) / 2)


def test_prepare_by_hand():
    batch = prepared()
    # rewards: -0.5 on each token, the score on the last besides
    assert batch["returns_BT"].tolist() == [[0, 3.0, 3.5], [0, 0.5, 0]]
    assert batch["advantages_BT"].tolist() == [[0, 2.0, 1.5], [0, 0, 0]]
    assert batch.metrics["kl/reference"].value == 1.5 and batch.metrics["kl/beta"].value == 0.5
    errors, returns = torch.tensor([2.0, 1.5, 0.0]), torch.tensor([3.0, 3.5, 0.5])
    assert batch.metrics["critic/explained_variance"].value == pytest.approx(1 - errors.var() / returns.var())
    assert batch.metrics["reward/mean"].value == 2.5
    assert batch.unit_B.tolist() == [0, 1] and batch.state == {}


def test_whitening_is_over_the_batch_and_leaves_returns_alone():
    plain, white = prepared(), prepared(whiten_advantages=True)
    assert torch.equal(plain["returns_BT"], white["returns_BT"])
    valid = white["advantages_BT"][white["policy_mask_BT"].bool()]
    torch.testing.assert_close(valid.mean(), torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(valid.std(), torch.ones((), dtype=torch.float64))


def test_scores_of_cut_answers_and_clipping():
    batch = prepared(missing_eos="replace", missing_eos_value=-7.0, score_clip=3.0)
    assert batch["returns_BT"].tolist() == [[0, 2.0, 2.5], [0, -3.5, 0]]


def test_scores_are_normalised_by_running_moments_before_cut_answers_are_marked():
    state = {"score_count": 2.0, "score_mean": 1.0, "score_squares": 2.0}
    batch = prepared(small(state=state), normalise_scores=True, kl_coefficient=0.0, missing_eos="replace")
    seen = torch.tensor([0.0, 2.0, 4.0, 1.0], dtype=torch.float64)  # 0 and 2 have that state
    first = (4 - seen.mean()) / seen.std()
    torch.testing.assert_close(batch["returns_BT"][:, 1], torch.stack([first, torch.tensor(-1.0).double()]))
    assert batch.state["score_count"] == 4.0 and batch.state["score_mean"] == 1.75


def test_adaptive_kl_uses_its_state_and_gives_the_next():
    batch = prepared(small(state={"kl_beta": 2.0}), kl_target=1.0, kl_horizon=10.0)
    assert batch.metrics["kl/beta"].value == 2.0
    assert batch["returns_BT"][0, 2] == 4.0 - 2.0
    assert batch.state == {"kl_beta": pytest.approx(2.0 * (1 + 0.2 * 2 / 10))}


def test_only_stale_answers_are_corrected():
    rollouts = small(staleness_B=torch.tensor([1, 0]))
    rollouts.behaviour_logprobs_BT = rollouts.logprobs_BT - torch.tensor([[0, LOG3, -LOG2], [0, LOG3, 0]])
    torch.testing.assert_close(prepared(rollouts)["weights_BT"], torch.tensor([[0, 2.0, 0.5], [0, 1.0, 0]]).double())
    off = prepared(rollouts, correction_cap=None)
    assert off["weights_BT"].tolist() == [[0, 1, 1], [0, 1, 0]]


def test_answers_of_a_data_set_are_not_corrected():
    rollouts = small(staleness_B=torch.tensor([1, 0]))
    rollouts.behaviour_logprobs_BT = rollouts.logprobs_BT.clone()
    rollouts.behaviour_logprobs_BT[1, 1] = math.nan
    batch = prepared(rollouts)
    assert batch["weights_BT"].tolist() == [[0, 1, 1], [0, 1, 0]]
    assert batch.metrics["rollout/mismatch_max"].value == 0.0


def test_advantages_pass_over_the_tokens_of_an_environment():
    """Two turns around a gap of two tokens: valid tokens are neighbours, and the score is on the last."""
    mask = torch.tensor([[0, 1, 0, 0, 1, 1]])
    rollouts = Rollouts(mask, torch.ones_like(mask), mask, torch.zeros(1), torch.tensor([4.0]).double())
    rollouts.logprobs_BT = rollouts.behaviour_logprobs_BT = torch.tensor([[0, -1.0, 9.0, 9.0, -2.0, -3.0]]).double()
    rollouts.reference_logprobs_BT = torch.tensor([[0, -1.5, 7.0, 7.0, -2.0, -2.0]]).double()
    rollouts.values_BT = torch.tensor([[0, 1.0, 50.0, 50.0, 2.0, 3.0]]).double()
    batch = prepared(rollouts, gamma=0.5, lam=0.5)
    # rewards: -0.5 * KL of (0.5, 0, -1), and the score 4 on the last: (-0.25, 0, 4.5)
    # deltas: -0.25 + 0.5 * 2 - 1 = -0.25;  0 + 0.5 * 3 - 2 = -0.5;  4.5 - 3 = 1.5
    # advantages, backwards: 1.5;  -0.5 + 0.25 * 1.5 = -0.125;  -0.25 - 0.25 * 0.125 = -0.28125
    assert batch["advantages_BT"].tolist() == [[0, -0.28125, 0, 0, -0.125, 1.5]]
    assert batch["returns_BT"].tolist() == [[0, 0.71875, 0, 0, 1.875, 4.5]]


def test_an_absent_score_is_refused():
    with pytest.raises(AssertionError, match="without a score"):
        prepared(small(scores_B=torch.tensor([1.0, math.nan])))


def test_first_minibatch_has_ratio_one_and_nothing_clipped(make_rollouts):
    algorithm = load({"name": "ppo"})
    rollouts = make_rollouts()
    batch = algorithm.prepare(rollouts)
    loss = algorithm.loss("policy", Outputs(logprobs_BT=rollouts.logprobs_BT), batch)
    found = {name: metric.value for name, metric in loss.metrics.items() if name.startswith("policy/")}
    assert found == {
        "policy/clip_fraction": 0.0,
        "policy/approx_kl": 0.0,
        "policy/ratio_min": 1.0,
        "policy/ratio_max": 1.0,
    }
    torch.testing.assert_close(loss.numerator, -(batch["advantages_BT"] * batch["weights_BT"]).sum())
    assert loss.normaliser == batch["policy_mask_BT"].sum() == 19


def test_policy_loss_sum_weights_and_entropy_by_hand():
    algorithm = load({"name": "ppo", "entropy_coefficient": 0.25})
    batch = prepared()
    batch.tensors["weights_BT"] = torch.tensor([[0, 2.0, 1.0], [0, 1.0, 0]])
    new = batch["logprobs_BT"] + torch.tensor([[0, LOG2, -LOG2], [0, LOG3, 0]])
    loss = algorithm.loss("policy", Outputs(logprobs_BT=new, entropy_BT=torch.full((2, 3), 4.0)), batch)
    # advantages 2, 1.5 and 0; ratios 2 (clipped at 1.2), 1/2 and 3
    assert loss.numerator.item() == pytest.approx(2.0 * -2.4 - 0.75 - 3 * 0.25 * 4.0)
    found = {name: metric.value for name, metric in loss.metrics.items()}
    assert found["policy/clip_fraction"] == pytest.approx(1 / 3)
    assert found["policy/approx_kl"] == pytest.approx((2 + 0.5 + 3 - 3 - LOG3) / 3)
    assert (found["policy/ratio_min"], found["policy/ratio_max"]) == pytest.approx((0.5, 3.0))
    assert found["policy/entropy"] == 4.0 and found["loss/policy"] == pytest.approx(loss.numerator.item() / 3)


def test_critic_loss_by_hand():
    algorithm, batch = load({"name": "ppo", "aggregation": "seq-mean-token-sum"}), prepared()
    loss = algorithm.loss("critic", Outputs(values_BT=batch["returns_BT"]), batch)
    # the clipped values stand 1.8, 1.3 and 0 below their returns
    assert loss.numerator.item() == pytest.approx((1.8**2 + 1.3**2) / 2) and loss.normaliser == 3.0
    assert loss.metrics["loss/critic"].value == pytest.approx(loss.numerator.item() / 3)


def test_roles_and_needs_follow_the_settings():
    full, bare = load({"name": "ppo"}), load({"name": "ppo", "kl_coefficient": 0.0, "correction_cap": None})
    assert full.roles == {"policy", "critic", "reference", "reward"} and full.passes == 2
    assert full.needs == {"logprobs", "values", "scores", "reference_logprobs", "behaviour_logprobs"}
    assert bare.roles == {"policy", "critic", "reward"} and bare.needs == full.needs - {"reference_logprobs"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kl_target": 6.0, "kl_coefficient": 0.0}, "kl_coefficient"),
        ({"aggregation": "seq-mean-token-sum-norm"}, "max_length"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, named):
    with pytest.raises(InputError, match=named):
        load({"name": "ppo", **settings})
