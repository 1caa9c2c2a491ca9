import pytest
import torch

from rayalign.algorithms.base import load
from rayalign.types import Outputs


def test_sum_of_negative_log_likelihoods_over_answer_tokens(make_rollouts):
    algorithm = load({"name": "sft"})
    rollouts = make_rollouts()
    batch = algorithm.prepare(rollouts)
    loss = algorithm.loss("policy", Outputs(logprobs_BT=torch.full((6, 8), -2.0)), batch)
    assert (loss.numerator, loss.normaliser) == (38, 19)
    merged = {name: metric.merge(metric).value for name, metric in loss.metrics.items()}
    assert merged == {"loss/sft": pytest.approx(2.0), "sft/tokens": 38}
    assert algorithm.roles == {"policy"} and algorithm.needs == frozenset()
