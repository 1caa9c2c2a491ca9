"""A second objective that is trained in the same optimizer steps, on rows of its own.

InstructGPT's PPO-ptx (Ouyang 2022, arXiv 2203.02155, eq. 2) mixes the language modelling loss of other data into the
policy's this way, weighted by gamma. The named algorithm defines the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rayalign.algorithms.base import load
from rayalign.data.rows import RowFile
from rayalign.models.metrics import MIXTURE
from rayalign.models.objective import Objective


@dataclass(frozen=True, slots=True)
class MixtureSpec:
    """What a mixture is made from."""

    algorithm: Mapping[str, Any]
    rows: str
    """folder of encoded rows (rayalign.data.rows)"""
    weight: float
    samples: int
    """rows of each optimizer step, over all ranks"""


class Mixture:
    """Draws the rows of each step; the same for the same seed on every rank."""

    def __init__(self, spec: MixtureSpec) -> None:
        self._rows = RowFile(Path(spec.rows))
        self._algorithm = load(spec.algorithm)
        self._weight = spec.weight
        self._samples = min(spec.samples, len(self._rows))

    def draw(self, seed: int) -> Objective:
        """Different rows of the data, chosen by the seed, as they are: at temperature 1."""
        generator = torch.Generator().manual_seed(seed)
        numbers_B = torch.randperm(len(self._rows), generator=generator)[: self._samples].sort().values
        batch = self._algorithm.prepare(self._rows.collate(numbers_B))
        return Objective(batch, self._algorithm, self._weight, temperature=1.0, area=MIXTURE)
