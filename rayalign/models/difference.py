"""Models published as differences: what fine-tuning added to the weights of a model that may not be passed on.

AlpacaFarm and Wombat publish such folders: each tensor is tuned - raw, so that raw + difference is the tuned model. The
raw model's embeddings get rows with their mean first where the vocabulary grew. `difference.json` beside the tensors
has a checksum of what a recovery makes, so a wrong raw model or a damaged file is found.

    write_difference(tuned, raw, out) -> out   tuned - raw                  with configuration and tokenizer of tuned
    recover(out, raw, model)          -> model raw + difference, proven     the weights that write_difference foresaw
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rayalign.errors import InputError, WeightError
from rayalign.models.model_folder import ModelFolder, same_base
from rayalign.models.output_folder import copy_companions, whole_folder
from rayalign.models.stored_sums import Numbers, summed_pieces
from rayalign.weights.streaming import CODES, PIECE, StoredTensor, write_tensors

MANIFEST = "difference.json"
Contents = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""name -> type and shape of each tensor of a file"""
Grown = Literal["mean", "whole"]
"""how a difference holds embeddings that grew: raw rows padded with their mean, or the tuned matrix as it is"""


@dataclass(frozen=True, slots=True)
class Difference:
    """What a difference says of the model that a recovery makes."""

    checksum: str
    """of the recovered tensors: names, types, shapes and bytes"""
    sum: float
    """of all numbers of the recovered model, the figure that AlpacaFarm publishes"""
    unequal: int
    """numbers that a recovery gives back with another value"""
    largest_error: float
    """of those numbers"""
    dtypes: dict[str, str]
    """type of each recovered tensor, where the difference has another one"""


@dataclass(frozen=True, slots=True)
class Padded:
    """A matrix in memory with further rows, each the mean of its own."""

    matrix: Tensor

    @classmethod
    def of(cls, tensor: StoredTensor, rows: int) -> Padded:
        """The numbers of a stored matrix, padded to so many rows."""
        own = tensor.read()
        mean = own.double().mean(dim=0, keepdim=True).to(own.dtype)
        further = mean.expand(rows - len(own), *own.shape[1:])
        return cls(torch.cat([own, further]).flatten())

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return self.matrix.numel()

    def piece(self, begin: int, count: int) -> Tensor:
        """At most `count` of its numbers from number `begin` on."""
        return self.matrix[begin : begin + count]


def write_difference(
    tuned: str | Path, raw: str | Path, out: str | Path, *, dtype: torch.dtype | None = None
) -> Difference:
    """Write tuned - raw as a model folder, and prove what a recovery gives.

    Args:
        dtype: of the differences; None: as the tuned model. A sum of 16-bit numbers is not always exact, and
            float32 makes that rarer.
        out: a folder that does not exist or is empty; it appears whole or not at all.

    Raises:
        InputError: shapes or tokenizers do not fit, or `out` has content.
    """
    model, base = ModelFolder.read(Path(tuned)), ModelFolder.read(Path(raw))
    same_base(base, model)
    with whole_folder(Path(out), [model.path, base.path]) as folder:
        copy_companions(model.path, folder)
        size = 0
        for file_name, stored in model.shards.items():
            contents = {name: (_stored_type(tensor, dtype), tensor.shape) for name, tensor in stored.items()}
            write_tensors(folder / file_name, contents, _sums(stored, base, contents, -1.0))
            size += sum(kind.itemsize * math.prod(shape) for kind, shape in contents.values())
        model.write_index(folder, list(model.tensors), size)
        difference = _prove(ModelFolder.read(folder), base, model)
        (folder / MANIFEST).write_text(json.dumps(asdict(difference), indent=2) + "\n", encoding="utf-8")
    return difference


def recover(difference: str | Path, raw: str | Path, out: str | Path, *, grown: Grown = "mean") -> Difference | None:
    """Write raw + difference as a model folder.

    Args:
        grown: of a difference from elsewhere; AlpacaFarm's are `whole`.
        out: as for `write_difference`.

    Returns:
        What the difference says of the model; None where it comes from elsewhere and says nothing.

    Raises:
        InputError: shapes or tokenizers do not fit, or `out` has content.
        WeightError: the recovered weights have another checksum; nothing is written.
    """
    change, base = ModelFolder.read(Path(difference)), ModelFolder.read(Path(raw))
    same_base(base, change)
    promised = read_manifest(change.path)
    with whole_folder(Path(out), [change.path, base.path]) as folder:
        copy_companions(change.path, folder)
        checksum, size = Checksum(), 0
        for file_name, stored in change.shards.items():
            types = promised.dtypes if promised else {}
            contents = {name: (_recovered_type(name, tensor, types), tensor.shape) for name, tensor in stored.items()}
            pieces = _sums(stored, base, contents, 1.0, "mean" if promised else grown)
            write_tensors(folder / file_name, contents, checksum.passing(contents, pieces))
            size += sum(kind.itemsize * math.prod(shape) for kind, shape in contents.values())
        change.write_index(folder, list(change.tensors), size)
        if promised and checksum.digest != promised.checksum:
            raise WeightError(
                f"{raw} + {difference} is not the model that the difference was made of (checksum {checksum.digest}, "
                f"not {promised.checksum}); use the raw model that it was made with, or copy both again"
            )
    return promised


def read_manifest(folder: Path) -> Difference | None:
    """What stands beside the tensors of a difference; None where it was made elsewhere.

    Raises:
        InputError: the file cannot be read.
    """
    file = folder / MANIFEST
    if not file.exists():
        return None
    try:
        return Difference(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{file} cannot be read ({error}); copy the difference again") from error


class Checksum:
    """A digest of tensors that pass by in pieces, and the sum of their numbers."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.sum = 0.0

    @property
    def digest(self) -> str:
        """Of all tensors so far."""
        return self._hash.hexdigest()

    def passing(self, contents: Contents, pieces: Iterator[Tensor]) -> Iterator[Tensor]:
        """The pieces of tensors of these names, types and shapes, unchanged."""
        for name, (dtype, shape) in contents.items():
            self._hash.update(f"{name} {CODES[dtype]} {list(shape)}\n".encode())
        for piece in pieces:
            numbers: Any = piece.reshape(-1).view(torch.uint8).numpy()
            self._hash.update(numbers)
            self.sum += float(piece.double().sum())
            yield piece


def _stored_type(tensor: StoredTensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and tensor.dtype.is_floating_point else tensor.dtype


def _recovered_type(name: str, tensor: StoredTensor, types: Mapping[str, str]) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, types[name]) if name in types else tensor.dtype
    return dtype


def _base_of(name: str, tensor: StoredTensor, base: ModelFolder) -> Numbers | None:
    """The raw model's tensor in the shape of another; None where that one stands for itself."""
    own = base.tensors.get(name)
    if own is None or not tensor.dtype.is_floating_point:
        return None
    return own if own.shape == tensor.shape else Padded.of(own, tensor.shape[0])


def _sums(
    stored: Mapping[str, StoredTensor], base: ModelFolder, contents: Contents, sign: float, grown: Grown = "mean"
) -> Iterator[Tensor]:
    """Each tensor plus `sign` times that of the raw model, in pieces; sums of 16-bit numbers are made in float32."""
    for name, tensor in stored.items():
        own, dtype = _base_of(name, tensor, base), contents[name][0]
        if own is None or (grown == "whole" and isinstance(own, Padded)):
            pieces = tensor.pieces(PIECE)
        else:
            wide = torch.float64 if torch.float64 in (tensor.dtype, dtype) else torch.float32
            pieces = summed_pieces([[tensor, own]], [1.0, sign], wide)
        for piece in pieces:
            yield piece.to(dtype)


def _prove(change: ModelFolder, base: ModelFolder, tuned: ModelFolder) -> Difference:
    """What a recovery makes, compared with the tuned model."""
    checksum, unequal, largest = Checksum(), 0, 0.0
    dtypes: dict[str, str] = {}
    for file_name, stored in change.shards.items():
        original = tuned.shards[file_name]
        contents = {name: (original[name].dtype, tensor.shape) for name, tensor in stored.items()}
        recovered = checksum.passing(contents, _sums(stored, base, contents, 1.0))
        numbers = chain.from_iterable(original[name].pieces(PIECE) for name in stored)
        for ours, theirs in zip(recovered, numbers, strict=True):
            errors = (ours.double() - theirs.double()).abs()
            unequal += int((errors > 0).sum())
            largest = max(largest, float(errors.max()) if errors.numel() else 0.0)
        for name, tensor in stored.items():
            if original[name].dtype != tensor.dtype:
                dtypes[name] = str(original[name].dtype).removeprefix("torch.")
    return Difference(checksum.digest, checksum.sum, unequal, largest, dtypes)
