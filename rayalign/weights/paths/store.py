"""The path through an object store: checksummed buckets, put there by the trainer and read in place by the engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from rayalign.weights.buckets import Bucket, pack, unpack, verify
from rayalign.weights.paths.base import Header, Line, PathConfig
from rayalign.weights.sets import WeightSet


class StorePath:
    """A message is what `put` returned; whoever holds it keeps the bucket in the store."""

    def __init__(self, config: PathConfig, put: Callable[[Bucket], Any], get: Callable[[Any], Bucket]) -> None:
        self._bucket_bytes = config.bucket_bytes
        self._put = put
        self._get = get

    def open(self) -> None:
        pass

    def send(self, weights: WeightSet, line: Line | None) -> int:
        if line is None:
            for _ in weights.tensors:
                pass
            return 0
        size = 0
        for bucket in pack(weights.tensors, self._bucket_bytes):
            size += bucket.bytes
            line.post(self._put(bucket))
        line.end()
        return size

    def receive(self, header: Header, messages: Iterator[Any]) -> WeightSet:
        return WeightSet(header.kind, header.version, self._tensors(messages), adapter=header.adapter)

    def close(self) -> None:
        pass

    def _tensors(self, messages: Iterator[Any]) -> Iterator[tuple[str, Tensor]]:
        for message in messages:
            bucket = self._get(message)
            del message
            verify(bucket)
            yield from unpack(bucket)
            del bucket
