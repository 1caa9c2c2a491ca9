"""The reference's log-probs of offline rows: computed once and stored, or computed live beside the learner.

    stages/NAME/reference/<key>/000012.npy    float32, every token of rows 12 * CHUNK to 13 * CHUNK - 1

The key names the rows, the model's weights and the precision, so an interrupted stage finds what it has and nothing
else. The ranks divide the chunks among them, before the learner is loaded: two models are never in memory at once.
Where the learner's weights lie in parts (ZeRO-3), the reference does too, and the ranks compute each chunk together.
"""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rayalign.algorithms.ops import token_tensors
from rayalign.config import LearnerConfig
from rayalign.coordinator.progress import Heartbeat
from rayalign.data.rows import RowFile
from rayalign.models.process_group import from_first, join_rows
from rayalign.models.zero import lies_in_parts
from rayalign.types import Batch, Outputs, Rollouts
from rayalign.weights.files import content_digest, model_folder

CHUNK = 1024
"""rows of one file"""
POLL = 0.2
"""seconds between two looks for what other ranks compute"""


class Reference(Protocol):
    """Log-probs of a frozen model at the trained tokens of some rows."""

    def logprobs(self, rollouts: Rollouts, numbers_B: Tensor) -> Tensor:
        """As `Rollouts.reference_logprobs_BT`; every rank asks for the same rows."""

    def close(self) -> None:
        """Release what the garbage collector would not."""


class StoredReference:
    """Log-probs that were computed before."""

    def __init__(self, paths: Sequence[Path], rows: RowFile, chunk_rows: int = CHUNK) -> None:
        self._rows, self._chunk_rows = rows, chunk_rows
        self._chunks = [np.load(path, mmap_mode="r") for path in paths]

    def logprobs(self, rollouts: Rollouts, numbers_B: Tensor) -> Tensor:
        """Read them."""
        filled_BT = torch.zeros(rollouts.input_ids_BT.shape)
        pieces = [self._row(number) for number in numbers_B.tolist()]
        filled_BT[rollouts.attention_mask_BT.bool()] = torch.from_numpy(np.concatenate(pieces))
        return filled_BT

    def close(self) -> None:
        """Does nothing: no model is held."""

    def _row(self, number: int) -> np.ndarray:
        chunk = number // self._chunk_rows
        start = int(self._rows.starts_N[number] - self._rows.starts_N[chunk * self._chunk_rows])
        return self._chunks[chunk][start : start + int(self._rows.lengths_N[number])]


class LiveReference:
    """A model held beside the learner, which computes each minibatch as it comes."""

    def __init__(self, model: str, config: LearnerConfig, device: torch.device) -> None:
        from rayalign.models.spread import frozen_beside

        self._model = frozen_beside(model, config, dist.get_world_size())
        self._device = device

    def logprobs(self, rollouts: Rollouts, numbers_B: Tensor) -> Tensor:
        """Compute them, each rank its share of the rows."""
        return shared_logprobs(self._model.evaluate, rollouts, self._device)

    def close(self) -> None:
        """Release the model, which DeepSpeed would keep where it lies in parts."""
        self._model.close()


def shared_logprobs(
    evaluate: Callable[[Batch], Outputs], rollouts: Rollouts, device: torch.device, rows_B: Tensor | None = None
) -> Tensor:
    """Token log-probs on every rank, of which each rank computes its share.

    Args:
        device: what the ranks' collectives work on.
        rows_B: the rows that count, of which the others are 0; None: all.
    """
    count = len(rollouts.input_ids_BT)
    numbers_B = torch.arange(count) if rows_B is None else rows_B
    share_B = numbers_B[dist.get_rank() :: dist.get_world_size()]
    batch = Batch(token_tensors(rollouts), torch.arange(count)).rows(share_B)
    outputs = evaluate(batch)
    assert outputs.logprobs_BT is not None
    return join_rows(outputs.logprobs_BT, share_B, count, device)


def stored_reference(
    folder: Path,
    rows: RowFile,
    model: str,
    config: LearnerConfig,
    heartbeat: Heartbeat,
    chunk_rows: int = CHUNK,
) -> StoredReference:
    """The stored log-probs, after computing what is missing; every rank calls it."""
    heartbeat.report(f"the reference {model}")
    place = folder / from_first(lambda: _key(rows, model, config))
    if dist.get_rank() == 0:
        _remove_others(folder, place)
    place.mkdir(parents=True, exist_ok=True)
    numbers = torch.arange(len(rows)).split(chunk_rows)
    paths = [place / f"{chunk:06d}.npy" for chunk in range(len(numbers))]
    missing = from_first(lambda: [chunk for chunk, path in enumerate(paths) if not path.exists()])
    spread = lies_in_parts(config, dist.get_world_size())
    mine = missing if spread else missing[dist.get_rank() :: dist.get_world_size()]
    if mine:
        _compute({paths[chunk]: numbers[chunk] for chunk in mine}, rows, model, config, heartbeat)
    _await(paths, heartbeat)
    return StoredReference(paths, rows, chunk_rows)


def _compute(
    missing: Mapping[Path, Tensor], rows: RowFile, model: str, config: LearnerConfig, heartbeat: Heartbeat
) -> None:
    """Load the model, compute and store the rows of some files, and release the model."""
    from rayalign.models.spread import frozen_model

    spread = lies_in_parts(config, dist.get_world_size())
    frozen = frozen_model(model, "causal", config, spread=spread)
    for path, numbers_B in missing.items():
        heartbeat.report(f"the reference's log-probs of rows from {int(numbers_B[0])}")
        rollouts = rows.collate(numbers_B)
        outputs = frozen.evaluate(Batch(token_tensors(rollouts), numbers_B))
        assert outputs.logprobs_BT is not None
        if not spread or dist.get_rank() == 0:
            _save(path, outputs.logprobs_BT[rollouts.attention_mask_BT.bool()].numpy())
    frozen.close()
    del frozen
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _await(paths: Sequence[Path], heartbeat: Heartbeat) -> None:
    """Wait for the other ranks' chunks; the deadline is the watch's, which hears of each chunk that is new."""
    missing = len(paths) + 1
    while missing:
        still_missing = sum(not path.exists() for path in paths)
        if still_missing < missing:
            missing = still_missing
            heartbeat.report(f"{missing} chunks of the reference's rows from other ranks")
        if missing:
            time.sleep(POLL)


def _key(rows: RowFile, model: str, config: LearnerConfig) -> str:
    """The name of these log-probs, for which all weights are read."""
    text = f"{rows.digest} {content_digest(model_folder(model))} {config.precision}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _remove_others(folder: Path, place: Path) -> None:
    """Log-probs of other rows or another model."""
    for path in folder.glob("*"):
        if path != place:
            shutil.rmtree(path)


def _save(path: Path, values: np.ndarray) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.save(file, values)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
