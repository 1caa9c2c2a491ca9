"""Learners that save their state in one layout and go on in another; run as a script, one rank of a world of two."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rayalign.models.learner import Learner
from tests.models.conftest import make_learner, settings, train, weights

Layout = tuple[str, int]
"""precision and ZeRO stage"""
OTHERS: dict[Layout, Layout] = {
    ("fp32", 0): ("fp32", 2),
    ("fp32", 2): ("fp32", 3),
    ("fp32", 3): ("fp32", 0),
    ("bf16", 1): ("bf16", 3),
    ("bf16", 2): ("bf16", 1),
    ("bf16", 3): ("bf16", 2),
}
"""the layout that goes on from the state of another"""
ADAM: dict[str, Any] = {"learning_rate": 0.02, "betas": (0.9, 0.95), "eps": 1e-3, "schedule": "cosine", "ema": 0.5}


def learner_in(folder: str, layout: Layout) -> Learner:
    precision, stage = layout
    # Elements of a parameter lie on several ranks, and nothing is too small to be cut.
    spread = {"zero_live_parameters": 0} if stage == 3 else {}
    return make_learner(folder, settings(**ADAM, precision=precision, zero_stage=stage, **spread))


def write(folder: str, layout: Layout, out: Path) -> None:
    """Save a state, and what the same learner comes to after further steps."""
    learner = learner_in(folder, layout)
    train(learner)
    learner.save_state(out / "before")
    _go_on(learner, out)


def read(folder: str, layout: Layout, state: Path, out: Path) -> None:
    """Load a state, save it again, and go on."""
    learner = learner_in(folder, layout)
    train(learner)  # what is there already is to be replaced
    learner.load_state(state)
    learner.save_state(out / "before")
    _go_on(learner, out)


def _go_on(learner: Learner, out: Path) -> None:
    loaded = weights(learner)
    metrics = train(learner)
    learner.save_state(out / "after")
    if not dist.get_rank():
        rates = [step["learner/learning_rate"].value for step in metrics]
        torch.save({"weights": loaded, "rates": rates}, out / "seen.pt")
    learner.close()


def place(root: Path, world: int, layout: Layout) -> Path:
    """Where a world of so many ranks leaves what it wrote in a layout, or read into it."""
    return root / f"world-{world}-{layout[0]}-{layout[1]}"


def main(folder: str, root: Path) -> None:
    torch.set_num_threads(1)
    for layout in OTHERS:
        write(folder, layout, place(root / "written", 2, layout))
        other = OTHERS[layout]
        read(folder, other, place(root / "written", 1, layout) / "before", place(root / "read", 2, other))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
