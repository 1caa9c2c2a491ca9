from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rayalign.algorithms.gae import BLOCK
from rayalign.algorithms.ops import gae

TOKENS = 2 * BLOCK**2 + 5
"""three levels of blocks, the last one not full"""


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def loop(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, discount: tuple[float, float], after_B: Tensor
) -> Tensor:
    """Equation 16 token by token, from the last one back."""
    gamma, lam = discount
    rows = []
    for reward_T, value_T, mask_T, following in zip(
        rewards_BT.tolist(), values_BT.tolist(), mask_BT.tolist(), after_B.tolist(), strict=True
    ):
        carried, advantages_T = 0.0, [0.0] * len(mask_T)
        for t in reversed(range(len(mask_T))):
            if mask_T[t]:
                delta = reward_T[t] + gamma * following - value_T[t]
                advantages_T[t] = carried = delta + gamma * lam * carried
                following = value_T[t]
        rows.append(advantages_T)
    return torch.tensor(rows, dtype=torch.float64)


def masks(tokens: int) -> dict[str, Tensor]:
    place_T = torch.arange(tokens)
    everything = torch.ones(3, tokens, dtype=torch.bool)
    padded = place_T < torch.tensor([[tokens], [tokens // 2], [0]])
    prompts = place_T >= torch.tensor([[7], [tokens // 3], [tokens - 1]])
    turns = (place_T % 10 < 6) & padded
    scattered = noise(3, tokens, seed=5) > 0
    return {"full": everything, "padded": padded, "prompts": prompts, "turns": turns, "scattered": scattered}


@pytest.mark.parametrize("bootstrapped", [False, True])
@pytest.mark.parametrize("discount", [(0.0, 0.9), (0.9, 0.0), (1.0, 0.95), (0.9999, 0.9999), (1.0, 1.0), (1e-3, 1e-3)])
@pytest.mark.parametrize("layout", ["full", "padded", "prompts", "turns", "scattered"])
def test_equals_the_loop_over_time(layout: str, discount: tuple[float, float], bootstrapped: bool) -> None:
    rewards, values, mask = noise(3, TOKENS), noise(3, TOKENS, seed=1), masks(TOKENS)[layout]
    after = torch.tensor([0.5, -2.0, 9.0], dtype=torch.float64)
    bootstrap = after if bootstrapped else None
    gamma, lam = discount
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam, bootstrap_B=bootstrap)
    expected = loop(rewards, values, mask, discount, after if bootstrapped else torch.zeros(3))
    torch.testing.assert_close(advantages, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(returns, (expected + values) * mask, rtol=1e-10, atol=1e-10)


def test_hand_computed() -> None:
    rewards, values = torch.tensor([[1.0, 2.0, 9.0, 4.0]]), torch.tensor([[3.0, 5.0, 9.0, 7.0]])
    mask = torch.tensor([[1, 1, 0, 1]])
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    assert returns.tolist() == [[7.0, 6.0, 0.0, 4.0]] and advantages.tolist() == [[4.0, 1.0, 0.0, -3.0]]
    # deltas with the value 8 after the end: 1 + 5/2 - 3, 2 + 7/2 - 5, 4 + 8/2 - 7
    advantages, _ = gae(rewards, values, mask, gamma=0.5, lam=0.5, bootstrap_B=torch.tensor([8.0]))
    assert advantages.tolist() == [[0.5 + 0.25 * 0.75, 0.5 + 0.25 * 1.0, 0.0, 1.0]]


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_neither_overflows_nor_underflows(scale: float) -> None:
    rewards = torch.full((1, TOKENS), scale, dtype=torch.float64)
    advantages, _ = gae(rewards, torch.zeros_like(rewards), torch.ones_like(rewards), gamma=0.5, lam=1.0)
    torch.testing.assert_close(advantages[0, :-60] / scale, torch.full((TOKENS - 60,), 2.0, dtype=torch.float64))


def test_half_precision_is_computed_in_float32() -> None:
    advantages, _ = gae(*(torch.ones(1, 3, dtype=torch.bfloat16) for _ in range(3)), gamma=1.0, lam=1.0)
    assert advantages.dtype == torch.float32


def test_a_row_without_valid_tokens_has_no_use_for_its_bootstrap() -> None:
    ones, mask = torch.ones(2, 4), torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]])
    bootstrap = torch.tensor([0.0, torch.nan])
    advantages, returns = gae(ones, ones, mask, gamma=1.0, lam=1.0, bootstrap_B=bootstrap)
    assert advantages.tolist() == [[3.0, 2.0, 1.0, 0.0], [0.0] * 4] and not returns[1].any()


class Kernels(TorchDispatchMode):
    """Counts what is sent to the device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", ["padded", "turns"])
def test_the_number_of_kernels_grows_with_the_logarithm_of_the_length(layout: str) -> None:
    counts = []
    for levels in (1, 2, 3):
        tokens = BLOCK**levels - 1
        mask = masks(tokens)[layout]
        with Kernels() as kernels:
            gae(torch.ones(3, tokens), torch.ones(3, tokens), mask, gamma=1.0, lam=0.9)
        counts.append(kernels.count)
    assert 0 < counts[2] - counts[1] <= counts[1] - counts[0]
