"""One rank of two that train offline, by each algorithm whose loss needs numbers of all ranks, or whole pairs."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rayalign.algorithms.base import load
from rayalign.config import LearnerConfig, TrackingConfig, TrainStage
from rayalign.coordinator.offline_data import OfflineSpec
from rayalign.coordinator.offline_loop import train_offline
from rayalign.data.collate import EncodedRow

ALGORITHMS: dict[str, dict[str, Any]] = {
    "mismatched": {"name": "kto", "beta": 0.5, "undesirable_weight": 2.0},
    "opposite": {"name": "kto", "beta": 0.5, "kl": "opposite"},
    "rrhf": {"name": "rrhf", "kl_coefficient": 0.1},
    "pairwise": {"name": "pairwise_reward"},
    # As rrhf, with policy and reference in parts on the ranks; the reference's log-probs are stored, or made live.
    "spread": {"name": "rrhf", "kl_coefficient": 0.1},
    "spread_live": {"name": "rrhf", "kl_coefficient": 0.1},
}
LEARNER = LearnerConfig(learning_rate=1e-3, eps=1e-4, minibatch=10, micro_tokens=24)
SPREAD = LEARNER.model_copy(update={"zero_stage": 3, "zero_live_parameters": 0})
GROUPS = 11
"""two minibatches of five, and one of one, of which one rank has nothing"""


def make_rows(labels: Sequence[float | None]) -> list[EncodedRow]:
    """Groups of two rows of various lengths; the labels say which of their answers are good."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for group in range(GROUPS):
        for place, label in enumerate(labels):
            length = int(torch.randint(3, 12, (1,), generator=generator))
            ids = torch.randint(5, 200, (length,), generator=generator).tolist()
            mask = (False, False, *[True] * (length - 2))
            flipped = label if label is None or group % 3 else 1.0 - label
            rows.append(EncodedRow(tuple(ids), mask, group, 1.0 - place, str(group), 0.75, flipped))
    return rows


def rows_of(name: str) -> list[EncodedRow]:
    """For one algorithm; where the KL has rows of its own, the second of each group is one."""
    return make_rows((1.0, None) if name == "mismatched" else (1.0, 0.0))


def spec_of(name: str, model: str, reference: str, folder: Path) -> OfflineSpec:
    """The stage of one algorithm, its rows not yet written."""
    algorithm = ALGORITHMS[name]
    settings = {"kind": "train", "algorithm": algorithm, "model": model, "learner": LEARNER}
    if name.startswith("spread"):
        settings["learner"] = SPREAD
        settings["reference_outputs"] = "live" if name == "spread_live" else "stored"
    roles, trained = load(algorithm).roles, load(algorithm).trains
    return OfflineSpec(
        stage=TrainStage.model_validate(settings),
        role=trained[0],
        model=model,
        tracking=TrackingConfig(),
        seed=3,
        folder=str(folder / name),
        events=str(folder / f"{name}.jsonl"),
        timeout=300.0,
        reference=reference if "reference" in roles else None,
    )


def bytes_in_parts() -> int:
    """What this process still holds of models that lay in parts."""
    total = 0
    for thing in gc.get_objects():
        if type(thing) is torch.nn.Parameter and hasattr(thing, "ds_tensor"):
            total += thing.ds_tensor.untyped_storage().nbytes()
    return total


def main(model: str, reference: str, folder: Path) -> None:
    kept = {}
    for name in ALGORITHMS:
        train_offline(spec_of(name, model, reference, folder))
        kept[name] = bytes_in_parts()
    (folder / f"kept{torch.distributed.get_rank()}.json").write_text(json.dumps(kept))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
