"""Safetensors files read and written piece by piece: memory does not grow with the file.

The format: eight bytes with the length of a JSON header, the header, then the tensors without gaps
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from rayalign.errors import InputError
from rayalign.weights.files import INDEX, shard_files

_DTYPES = MappingProxyType(
    {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }
)
CODES = MappingProxyType({dtype: code for code, dtype in _DTYPES.items()})
"""the format's name of each type"""
_ALIGNMENT = 8
PIECE = 1 << 18
"""numbers of a tensor that are usually in memory at a time"""
_LONGEST_HEADER = 100_000_000
"""the format's own limit [bytes]"""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a file keeps one tensor."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """of its first byte in the file"""

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * self.dtype.itemsize

    def pieces(self, count: int) -> Iterator[Tensor]:
        """Its numbers in flat pieces of at most `count`."""
        for begin in range(0, self.count, count):
            yield self.piece(begin, count)

    def piece(self, begin: int, count: int) -> Tensor:
        """At most `count` of its numbers from number `begin` on, flat."""
        numbers = torch.empty(min(count, self.count - begin), dtype=self.dtype)
        content: Any = numbers.view(torch.uint8).numpy()
        room = memoryview(content)
        with self.file.open("rb", buffering=0) as stream:
            stream.seek(self.start + begin * self.dtype.itemsize)
            while len(room):  # the system reads at most 2 GiB at a time
                count = stream.readinto(room)
                if not count:
                    raise InputError(f"{self.file} ends too early; copy it again")
                room = room[count:]
        return numbers

    def read(self) -> Tensor:
        """The whole tensor."""
        return self.piece(0, self.count).view(self.shape)


def read_layout(file: Path) -> dict[str, StoredTensor]:
    """Each tensor of a safetensors file, in the order of their bytes.

    Raises:
        InputError: the file is missing, cut short, no safetensors file, or holds numbers of an unsupported type.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, _LONGEST_HEADER)))
        header.pop("__metadata__", None)
        tensors = {name: _stored(file, row, 8 + length) for name, row in header.items()}
    except FileNotFoundError as error:
        raise InputError(f"{file} is missing; copy the whole model folder again") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{file} is not a safetensors file ({error!r}); copy or save it again") from error
    for name, tensor in tensors.items():
        if tensor.start + tensor.size > size:
            raise InputError(f"{file} is cut short: it ends before the end of {name}; copy it again")
    return dict(sorted(tensors.items(), key=lambda entry: entry[1].start))


def read_folder_layout(folder: Path) -> dict[str, dict[str, StoredTensor]]:
    """File name -> its tensors, for a model folder of one or several safetensors files.

    Raises:
        InputError: as `read_layout`; or the folder has no safetensors, or its index names a tensor that no file has.
    """
    layout = {file.name: read_layout(file) for file in shard_files(folder)}
    index = folder / INDEX
    if index.exists():
        for name, file_name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
            if name not in layout[file_name]:
                raise InputError(f"{folder / file_name} lacks {name}, which the index places there; copy it again")
    return layout


def write_tensors(
    file: Path, contents: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], pieces: Iterable[Tensor]
) -> None:
    """Write a safetensors file from a stream.

    Args:
        file: replaced if it exists.
        contents: name -> type and shape of each tensor, in the order of the stream.
        pieces: the numbers of all tensors one after the other, in pieces of any length and of the announced types.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in contents.items():
        begin, end = end, end + prod(shape) * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    written = 0
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for piece in pieces:
            numbers: Any = piece.reshape(-1).view(torch.uint8).numpy()
            written += stream.write(numbers)
    assert written == end, f"{written} bytes came for the {end} bytes that were announced"


def _stored(file: Path, row: Mapping[str, Any], data: int) -> StoredTensor:
    if row["dtype"] not in _DTYPES:
        raise ValueError(f"numbers of type {row['dtype']} are not supported")
    tensor = StoredTensor(file, _DTYPES[row["dtype"]], tuple(row["shape"]), data + row["data_offsets"][0])
    if row["data_offsets"][1] - row["data_offsets"][0] != tensor.size:
        raise ValueError("the length of a tensor does not fit its shape")
    return tensor
