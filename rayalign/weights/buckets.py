"""Named tensors as checksummed buckets of bytes, the unit in which weights travel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from rayalign.errors import WeightError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_ALIGNMENT = 64
_DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.bfloat16, torch.float16, torch.float64)}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Where one tensor lies in its bucket."""

    name: str
    dtype: str
    """without `torch.`"""
    shape: tuple[int, ...]
    offset: int
    """[bytes]"""
    bytes: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """Some tensors in one contiguous buffer."""

    index: int
    specs: tuple[TensorSpec, ...]
    data: Bytes
    digest: int
    """xxh3_64 of the data and the specs"""


def pack(named: Iterable[tuple[str, Tensor]], bucket_bytes: int = 256 << 20) -> Iterator[Bucket]:
    """Copy tensors once, each as it comes, into buckets of at most `bucket_bytes`; a larger tensor gets its own.

    Tensors may lie on any device. Besides the bucket in hand nothing is held, so that callers can gather as they go.

    Raises:
        WeightError: a tensor of a type that cannot travel.
    """
    index, used, specs, buffer = 0, 0, list[TensorSpec](), np.empty(bucket_bytes, np.uint8)
    for name, tensor in named:
        spec = _spec(name, tensor, -(-used // _ALIGNMENT) * _ALIGNMENT)
        if spec.offset + spec.bytes > len(buffer):
            if specs:
                yield _seal(index, specs, buffer[:used])
                index += 1
            spec, specs, buffer = _spec(name, tensor, 0), [], np.empty(max(bucket_bytes, spec.bytes), np.uint8)
        _view(buffer, spec).copy_(tensor.detach())
        buffer[used if specs else 0 : spec.offset] = 0
        specs.append(spec)
        used = spec.offset + spec.bytes
    if specs:
        yield _seal(index, specs, buffer[:used])


def unpack(bucket: Bucket) -> Iterator[tuple[str, Tensor]]:
    """The bucket's tensors without a copy: they share its memory, which may be read-only, and must not be written."""
    data = np.asarray(_Unlocked(bucket.data))
    for spec in bucket.specs:
        yield spec.name, _view(data, spec)


def verify(bucket: Bucket) -> None:
    """Check that a bucket arrived as it was sent.

    Raises:
        WeightError: it did not.
    """
    found = _digest(bucket.specs, bucket.data)
    if found != bucket.digest:
        names = f"{bucket.specs[0].name} .. {bucket.specs[-1].name}"
        raise WeightError(
            f"weight bucket {bucket.index} ({names}, {bucket.data.nbytes} bytes) arrived with checksum {found:016x}, "
            f"sent with {bucket.digest:016x}; send the weights again"
        )


class _Unlocked:
    """The same memory without numpy's read-only flag: torch has no read-only tensors and warns of such arrays."""

    def __init__(self, data: Bytes) -> None:
        self._keep = data
        self.__array_interface__ = {**data.__array_interface__, "data": (data.ctypes.data, False)}


def _spec(name: str, tensor: Tensor, offset: int) -> TensorSpec:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise WeightError(f"tensor {name} is {dtype}, which is not sent; cast it to one of {', '.join(_DTYPES)}")
    return TensorSpec(name, dtype, tuple(tensor.shape), offset, tensor.numel() * tensor.element_size())


def _view(data: Bytes, spec: TensorSpec) -> Tensor:
    raw = torch.from_numpy(data[spec.offset : spec.offset + spec.bytes])
    return raw.view(_DTYPES[spec.dtype]).view(spec.shape)


def _seal(index: int, specs: list[TensorSpec], data: Bytes) -> Bucket:
    return Bucket(index, tuple(specs), data, _digest(tuple(specs), data))


def _digest(specs: tuple[TensorSpec, ...], data: Bytes) -> int:
    hasher = xxhash.xxh3_64(data.data)
    hasher.update(repr(specs).encode())
    return hasher.intdigest()
