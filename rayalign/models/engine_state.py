"""The state of training on disk: weights, Adam's moments and steps, the schedule, moving average, random numbers.

    rank-0.pt, rank-1.pt, ...    what each rank held: pieces of whole tensors by name and place (engine_pieces.py)

So a checkpoint is read at any number of ranks and ZeRO stage: each rank takes the elements that it holds from whichever
files have them. At the layout that wrote it training goes on bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rayalign.errors import InputError
from rayalign.models.averaging import WeightAverage
from rayalign.models.engine_pieces import Piece, adam_steps, engine_pieces, trained_shapes, weights_changed
from rayalign.models.schedule import set_steps

Shapes = Mapping[str, tuple[int, ...]]
SavedPiece = tuple[int, Tensor]
"""place of the first element in the whole tensor, and the elements"""


class EngineState:
    """What a checkpoint has of one rank's engine; every rank saves and loads."""

    def __init__(self, engine: Any, stage: int, average: WeightAverage | None) -> None:
        """`stage`: of ZeRO."""
        self._engine = engine
        self._stage = stage
        self._average = average
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._shapes = trained_shapes(engine.module)

    def save(self, folder: Path) -> None:
        """Write this rank's part of the state; what every rank has is divided among them."""
        folder.mkdir(parents=True, exist_ok=True)
        written = share_of(self._pieces(), self._rank, self._world)
        content = {
            "pieces": {piece.key: (piece.start, piece.values) for piece in written},
            "shapes": self._shapes,
            "world": self._world,
            "adam_steps": adam_steps(self._engine),
            "schedule_steps": self._engine.lr_scheduler.last_epoch,
            "rng": torch.get_rng_state(),
        }
        torch.save(content, _file(folder, self._rank))

    def load(self, folder: Path) -> None:
        """Fill this rank's part from what any number of ranks wrote.

        Raises:
            InputError: nothing is there, or it is of another model.
        """
        files = _read_all(folder)
        first = files[0]
        _verify_shapes(folder, first["shapes"], self._shapes)
        _fill_all(folder, self._pieces(), _saved_pieces(files))
        # As many ranks as before go on with their own random numbers.
        torch.set_rng_state(files[self._rank % len(files)]["rng"].clone())
        weights_changed(self._engine, self._stage, first["adam_steps"])
        self._engine.global_steps = first["schedule_steps"]
        set_steps(self._engine.lr_scheduler, first["schedule_steps"])

    def _pieces(self) -> list[Piece]:
        pieces = engine_pieces(self._engine, self._stage, self._rank)
        return pieces if self._average is None else pieces + self._average.pieces(self._rank)


def share_of(pieces: Sequence[Piece], rank: int, world: int) -> list[Piece]:
    """What a rank writes: all pieces that it alone holds, and its share of those that every rank holds.

    Only the latter are counted, since they alone have the same order on all ranks.
    """
    shared = [piece for piece in pieces if piece.shared]
    return [*(piece for piece in pieces if not piece.shared), *shared[rank::world]]


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    """The whole tensors of a saved state, flat: `weight/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`, `average/NAME`."""
    tensors: dict[str, Tensor] = {}
    for key, pieces in _saved_pieces(_read_all(folder)).items():
        in_order = sorted(pieces, key=lambda piece: piece[0])
        tensors[key] = torch.cat([values for _, values in in_order])
    return tensors


def _saved_pieces(files: Sequence[Mapping[str, Any]]) -> dict[str, list[SavedPiece]]:
    """The pieces of each tensor in all files."""
    saved: dict[str, list[SavedPiece]] = {}
    for file in files:
        for key, piece in file["pieces"].items():
            saved.setdefault(key, []).append(piece)
    return saved


def _fill_all(folder: Path, pieces: Sequence[Piece], saved: Mapping[str, Sequence[SavedPiece]]) -> None:
    """Copy into the pieces what was saved of them, which must be everything."""
    for piece in pieces:
        if _fill(piece, saved.get(piece.key, ())) != piece.values.numel():
            raise InputError(f"checkpoint {folder} lacks a part of {piece.key}; remove the checkpoint and run again")


@torch.no_grad()
def _fill(piece: Piece, saved: Sequence[SavedPiece]) -> int:
    """Copy what saved pieces have of this one; how many elements that were."""
    filled = 0
    end = piece.start + piece.values.numel()
    for start, values in saved:
        first = max(start, piece.start)
        count = min(start + values.numel(), end) - first
        if count > 0:
            target = piece.values.narrow(0, first - piece.start, count)
            target.copy_(values.narrow(0, first - start, count))
            filled += count
    return filled


def _verify_shapes(folder: Path, saved: Shapes, needed: Shapes) -> None:
    for name in sorted(saved.keys() | needed.keys()):
        if saved.get(name) != needed.get(name):
            raise InputError(
                f"checkpoint {folder} is of another model: {name} is {saved.get(name, 'missing')} there and "
                f"{needed.get(name, 'missing')} here; resume with the model that wrote it, or remove the checkpoint"
            )


def _read_all(folder: Path) -> list[dict[str, Any]]:
    """The files of all ranks; their tensors are read as they are used."""
    files: list[dict[str, Any]] = []
    world = 1
    while len(files) < world:
        file = _file(folder, len(files))
        if not file.is_file():
            raise InputError(f"checkpoint {folder} has no {file.name}; remove the checkpoint and run again")
        files.append(torch.load(file, map_location="cpu", weights_only=True, mmap=True))
        world = files[0]["world"]
    return files


def _file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.pt"
