"""What a rank of an offline stage trains on: its settings and its rows, one minibatch at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rayalign.algorithms.base import Algorithm
from rayalign.config import TrackingConfig, TrainStage
from rayalign.coordinator.offline_reference import LiveReference, Reference, shared_logprobs, stored_reference
from rayalign.coordinator.progress import Heartbeat
from rayalign.data.rows import RowFile, Side, split
from rayalign.errors import InputError
from rayalign.types import Batch, Role

if TYPE_CHECKING:
    from rayalign.models.heads import HeadKind
    from rayalign.models.learner import Learner


@dataclass(frozen=True, slots=True)
class OfflineSpec:
    """Everything that the loop needs besides its rows, which lie in `rows_folder`."""

    stage: TrainStage
    role: Role
    model: str
    """folder or hub name to start from"""
    tracking: TrackingConfig
    seed: int
    folder: str
    """of the stage: model/, metrics.jsonl and checkpoints/ go here"""
    events: str
    timeout: float
    """seconds in which every rank must get on"""
    reference: str | None = None
    """folder or hub name of the reference, where the algorithm needs one"""

    @property
    def rows_folder(self) -> Path:
        """Where the encoded rows are."""
        return Path(self.folder) / "rows"

    @property
    def ranks_folder(self) -> Path:
        """Where each rank reports what it does."""
        return Path(self.folder) / "ranks"


class OfflineData:
    """The rows of a stage and what the algorithm needs beside them, one minibatch at a time."""

    def __init__(
        self, spec: OfflineSpec, algorithm: Algorithm[Any], device: torch.device, heartbeat: Heartbeat
    ) -> None:
        self.algorithm = algorithm
        self._device = device
        self._rows = rows = RowFile(spec.rows_folder)
        stage = spec.stage
        singly = algorithm.unit == "sequence"
        usable_B = _usable(rows, algorithm)
        self.training, self.heldout = split(rows, usable_B, stage.holdout, spec.seed, singly=singly)
        self.heldout_prompts = len(rows.prompts()[self.heldout.numbers_B].unique())
        if not len(self.training):
            raise InputError("of the rows none can be trained on; give scored answers to an algorithm that ranks them")
        self._reference: Reference | None = None
        if spec.reference is None:
            return
        if stage.reference_outputs == "live":
            self._reference = LiveReference(spec.reference, stage.learner, device)
        else:
            folder = Path(spec.folder) / "reference"
            self._reference = stored_reference(folder, rows, spec.reference, stage.learner, heartbeat)

    def minibatch(self, side: Side, rows_B: Tensor, learner: Learner) -> Batch:
        """What `prepare` makes of some rows of a side; the same on every rank."""
        numbers_B = side.numbers_B[rows_B.sort().values]
        rollouts = self._rows.collate(numbers_B)
        if self._reference is not None:
            rollouts.reference_logprobs_BT = self._reference.logprobs(rollouts, numbers_B)
        if "logprobs" in self.algorithm.needs:
            rows_B = self.algorithm.measured_rows(rollouts).nonzero().squeeze(1)
            rollouts.logprobs_BT = shared_logprobs(learner.evaluate, rollouts, self._device, rows_B)
        return self.algorithm.prepare(rollouts)

    def close(self) -> None:
        """Release the reference."""
        if self._reference is not None:
            self._reference.close()


def head_of(role: Role, algorithm: Algorithm[Any]) -> HeadKind:
    """What is read off the model of a role."""
    if role == "policy":
        return "causal"
    return "pairwise" if algorithm.reads_pairs else "scalar"


def _usable(rows: RowFile, algorithm: Algorithm[Any]) -> Tensor:
    """True for each row that has what the algorithm needs of it."""
    usable_B = torch.ones(len(rows), dtype=torch.bool)
    if "scores" in algorithm.needs:
        usable_B &= ~rows.scores_N.isnan()
    if "preferences" in algorithm.needs:
        usable_B &= ~rows.preferences_N.isnan()
    return usable_B
