"""AlpacaFarm's seeded draws, equal to those of alpaca_eval 0.6.6: the same seed and texts give the same draw.

Texts seed Python's generator, so that a draw does not depend on order, batch or process.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from rayalign.errors import InputError

PADDING = {"instruction": "1+1=", "input": "", "output_1": "2", "output_2": "3", "criterion": "which answer is right"}
"""the pair that completes the last batch"""


def annotator_for(names: Sequence[str], inputs: str, seed: int) -> str:
    """The annotator of one row.

    Args:
        names: in the order of the pool's file.
        inputs: the row's input values joined without a separator (alpaca_eval: the instruction; AlpacaFarm: input,
            then instruction).
    """
    return random.Random(f"annotator{inputs}{seed}").choices(names)[0]


def is_switched(instruction: str, seed: int) -> bool:
    """Whether the judge sees the second answer first; from the instruction alone, so that it holds for all models."""
    return random.Random(f"is_switched_outputs{instruction}{seed}").choices((False, True))[0]


def noisy_label(inputs: str, seed: int, flip: float) -> float | None:
    """1 or 2, each with probability `flip`; else None, and the judge decides.

    Half of the labels drawn differ from any given verdict, so `flip` is the share of labels turned round.
    """
    if not flip:
        return None
    if not 0.0 < flip <= 0.5:
        raise InputError(f"label noise: flip is {flip}; expected a share between 0 and 0.5")
    weights = (1 - flip * 2, flip, flip)
    return random.Random(f"noisy_preference{inputs}{seed}").choices((None, 1.0, 2.0), weights)[0]


def batches(n: int, size: int, seed: int) -> list[list[int | None]]:
    """The rows of each prompt: n rows padded to whole batches, then shuffled with their padding (None)."""
    rows: list[int | None] = [*range(n), *[None] * (-n % size)]
    shuffled = [rows[i] for i in np.random.RandomState(seed).permutation(len(rows))]
    return [shuffled[i : i + size] for i in range(0, len(rows), size)]
