"""Named tensors as checksummed buckets of bytes, the unit in which weights travel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from rayalign.errors import WeightError

BUCKET_BYTES = 64 << 20
"""size of a bucket, unless one tensor alone is larger [bytes]"""
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.bfloat16, torch.float16, torch.float64)}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What one tensor's bytes are."""

    name: str
    dtype: str
    """without `torch.`"""
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """How many bytes the tensor has."""
        return math.prod(self.shape) * _DTYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True)
class Bucket:
    """Some tensors that travel together."""

    index: int
    specs: tuple[TensorSpec, ...]
    data: tuple[Bytes, ...]
    """the bytes of each tensor"""
    digest: int
    """xxh3_64 of the data and the specs"""

    @property
    def bytes(self) -> int:
        """How many bytes the tensors have."""
        return sum(part.nbytes for part in self.data)


def pack(named: Iterable[tuple[str, Tensor]], bucket_bytes: int = BUCKET_BYTES) -> Iterator[Bucket]:
    """Tensors as they come in buckets of at most `bucket_bytes`; a larger tensor gets its own.

    A bucket shares the memory of the tensors that lie on the CPU, so it must be sent before they change. Besides the
    bucket in hand nothing is held, so that callers can gather as they go.

    Raises:
        WeightError: a tensor of a type that cannot travel.
    """
    index, used, specs, data = 0, 0, list[TensorSpec](), list[Bytes]()
    for name, tensor in named:
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in _DTYPES:
            raise WeightError(f"tensor {name} is {dtype}, which is not sent; cast it to one of {', '.join(_DTYPES)}")
        size = tensor.numel() * tensor.element_size()
        if specs and used + size > bucket_bytes:
            yield _seal(index, specs, data)
            index, used, specs, data = index + 1, 0, [], []
        specs.append(TensorSpec(name, dtype, tuple(tensor.shape)))
        data.append(as_bytes(tensor))
        used += size
    if specs:
        yield _seal(index, specs, data)


def as_bytes(tensor: Tensor) -> Bytes:
    """The tensor's bytes; they share its memory where it is contiguous on the CPU."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def unpack(bucket: Bucket) -> Iterator[tuple[str, Tensor]]:
    """The bucket's tensors without a copy: they share its memory, which may be read-only, and must not be written."""
    for spec, part in zip(bucket.specs, bucket.data, strict=True):
        as_bytes_N = torch.from_numpy(np.asarray(_Unlocked(part)))
        yield spec.name, as_bytes_N.view(_DTYPES[spec.dtype]).view(spec.shape)


def verify(bucket: Bucket) -> None:
    """Check that a bucket arrived as it was sent; WeightError where it did not."""
    digest = _digest(bucket.specs, bucket.data)
    if digest != bucket.digest:
        names = f"{bucket.specs[0].name} .. {bucket.specs[-1].name}"
        raise WeightError(
            f"weight bucket {bucket.index} ({names}, {bucket.bytes} bytes) arrived with checksum {digest:016x}, "
            f"sent with {bucket.digest:016x}; send the weights again"
        )


class _Unlocked:
    """The same memory without numpy's read-only flag: torch has no read-only tensors and warns of such arrays."""

    def __init__(self, data: Bytes) -> None:
        self._keep = data
        self.__array_interface__ = {**data.__array_interface__, "data": (data.ctypes.data, False)}


def _seal(index: int, specs: list[TensorSpec], data: list[Bytes]) -> Bucket:
    return Bucket(index, tuple(specs), tuple(data), _digest(tuple(specs), tuple(data)))


def _digest(specs: tuple[TensorSpec, ...], data: tuple[Bytes, ...]) -> int:
    hasher = xxhash.xxh3_64()
    for part in data:
        hasher.update(part.data)
    hasher.update(repr(specs).encode())
    return hasher.intdigest()
