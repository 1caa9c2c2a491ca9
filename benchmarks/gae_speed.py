"""Seconds of `gae` against a loop over time, 64 answers of 32,768 tokens in float64, with one thread and with two."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.record import record
from rayalign.algorithms.ops import gae

ROWS, TOKENS = 64, 32768
GAMMA, LAM = 1.0, 0.95
REPEATS = 7
LOOP_REPEATS = 3
Rows = tuple[Tensor, Tensor, Tensor]


def plain_loop(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """One step for each token, as OpenRLHF has it: masked entries count as 0."""
    rewards_BT, values_BT = rewards_BT * mask_BT, values_BT * mask_BT
    advantage_B = following_B = torch.zeros_like(rewards_BT[:, 0])
    columns = []
    for t in reversed(range(rewards_BT.shape[1])):
        delta_B = rewards_BT[:, t] + GAMMA * following_B - values_BT[:, t]
        advantage_B = delta_B + GAMMA * LAM * advantage_B
        following_B = values_BT[:, t]
        columns.append(advantage_B)
    return torch.stack(columns[::-1], dim=1)


def masked_loop(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """One step for each token, as verl has it: sums and values pass over masked entries."""
    advantage_B = following_B = torch.zeros_like(rewards_BT[:, 0])
    columns = []
    for t in reversed(range(rewards_BT.shape[1])):
        valid_B = mask_BT[:, t]
        delta_B = rewards_BT[:, t] + GAMMA * following_B - values_BT[:, t]
        advantage_B = (delta_B + GAMMA * LAM * advantage_B) * valid_B + advantage_B * (1 - valid_B)
        following_B = values_BT[:, t] * valid_B + following_B * (1 - valid_B)
        columns.append(advantage_B)
    return torch.stack(columns[::-1], dim=1) * mask_BT


def ours(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The library's function."""
    return gae(rewards_BT, values_BT, mask_BT, gamma=GAMMA, lam=LAM)[0]


def rows(layout: str) -> Rows:
    """Random rewards and values under one layout of valid tokens."""
    generator = torch.Generator().manual_seed(0)
    rewards_BT, values_BT = (torch.randn(ROWS, TOKENS, dtype=torch.float64, generator=generator) for _ in range(2))
    lengths_B = torch.randint(TOKENS // 2, TOKENS + 1, (ROWS,), generator=generator)
    mask_BT = torch.arange(TOKENS) < lengths_B[:, None]
    if layout == "full":
        mask_BT = torch.ones_like(mask_BT)
    if layout == "gaps":
        mask_BT &= torch.arange(TOKENS) % 1000 < 900
    return rewards_BT, values_BT, mask_BT.double()


def median_seconds(method: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: Rows, repeats: int) -> float:
    """The median time of a call, after one that warms up."""
    method(*inputs)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        method(*inputs)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(layout: str) -> dict[str, float]:
    """Both loops and ours on the same rows; the error is against the masked loop."""
    inputs = rows(layout)
    seconds = median_seconds(ours, inputs, REPEATS)
    plain = median_seconds(plain_loop, inputs, LOOP_REPEATS)
    masked = median_seconds(masked_loop, inputs, LOOP_REPEATS)
    return {
        "seconds": seconds,
        "plain_loop_seconds": plain,
        "masked_loop_seconds": masked,
        "times_plain_loop": plain / seconds,
        "times_masked_loop": masked / seconds,
        "largest_error": (ours(*inputs) - masked_loop(*inputs)).abs().max().item(),
    }


def main() -> None:
    """Measure every layout with one thread and with two."""
    figures: dict[str, object] = {"rows": ROWS, "tokens": TOKENS, "limits": {"plain_loop": 5, "masked_loop": 12}}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        figures[f"{threads} threads"] = {layout: measure(layout) for layout in ("full", "right-padded", "gaps")}
    record("gae_speed", figures)


if __name__ == "__main__":
    main()
