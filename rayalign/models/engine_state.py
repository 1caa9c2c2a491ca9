"""A DeepSpeed engine's state on disk: weights, optimizer, schedule and RNG, tied to the layout that wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rayalign.errors import InputError

_TAG = "state"


def save_engine(engine: Any, folder: Path, layout: str, *, whole: bool, rank: int) -> None:
    """Write the state; all ranks call it.

    Args:
        layout: ranks, ZeRO stage and precision.
        whole: False: without frozen weights, which an adapter leaves in the model's own folder.
    """
    state = {"rng": torch.get_rng_state()}
    engine.save_checkpoint(str(folder), tag=_TAG, client_state=state, exclude_frozen_parameters=not whole)
    if rank == 0:
        (folder / "layout").write_text(layout, encoding="utf-8")


def load_engine(engine: Any, folder: Path, layout: str, *, whole: bool) -> None:
    """Go on from `save_engine`, bit by bit.

    Raises:
        InputError: nothing there, or it was written at another layout.
    """
    file = folder / "layout"
    saved = file.read_text(encoding="utf-8") if file.is_file() else "nothing"
    if saved != layout:
        raise InputError(f"checkpoint {folder}: wanted {layout}, found {saved}; resume as it was saved")
    _, state = engine.load_checkpoint(str(folder), tag=_TAG, load_module_strict=whole)
    torch.set_rng_state(state["rng"])
