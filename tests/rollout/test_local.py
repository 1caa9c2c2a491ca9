from __future__ import annotations

import pytest
import torch

from rayalign.config.sections import SamplingConfig
from rayalign.rollout.local import invert, processed_logprobs

PROBS = torch.tensor([[0.1, 0.5, 0.15, 0.25]])


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (SamplingConfig(), [0.1, 0.5, 0.15, 0.25]),
        (SamplingConfig(temperature=0.0), [0.1, 0.5, 0.15, 0.25]),
        (SamplingConfig(temperature=0.5), [0.01 / 0.345, 0.25 / 0.345, 0.0225 / 0.345, 0.0625 / 0.345]),
        (SamplingConfig(top_k=2), [0, 2 / 3, 0, 1 / 3]),
        (SamplingConfig(top_k=9), [0.1, 0.5, 0.15, 0.25]),
        (SamplingConfig(top_p=0.4), [0, 1, 0, 0]),
        (SamplingConfig(top_p=0.6), [0, 2 / 3, 0, 1 / 3]),
        (SamplingConfig(top_p=0.85), [0, 5 / 9, 1.5 / 9, 2.5 / 9]),
        (SamplingConfig(top_k=3, top_p=0.8), [0, 2 / 3, 0, 1 / 3]),
    ],
)
def test_the_distribution_sampled_from(sampling: SamplingConfig, expected: list[float]) -> None:
    assert processed_logprobs(PROBS.log() + 3.0, sampling).exp()[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_tokens_are_drawn_by_their_share() -> None:
    uniform = torch.tensor([0.0, 0.05, 0.11, 0.59, 0.61, 0.74, 0.76, 1 - 1e-12], dtype=torch.float64)
    assert invert(PROBS.log().expand(8, 4), uniform).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_tokens_of_mass_zero_are_never_drawn() -> None:
    logprobs = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]).log().expand(4, 5)
    uniform = torch.tensor([0.0, 0.4999, 0.5, 1 - 1e-16], dtype=torch.float64)
    assert invert(logprobs, uniform).tolist() == [1, 1, 3, 3]
