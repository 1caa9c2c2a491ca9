"""The path through a folder that both sides see: each bucket is one safetensors file, removed once it is loaded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from rayalign.errors import WeightError
from rayalign.weights.buckets import Bucket, TensorSpec, as_bytes, pack, unpack, verify
from rayalign.weights.paths.base import AHEAD, Header, Line, PathConfig
from rayalign.weights.sets import WeightSet


@dataclass(frozen=True, slots=True)
class FileMessage:
    """A file that lies ready, and the bucket that it must hold."""

    path: str
    index: int
    specs: tuple[TensorSpec, ...]
    digest: int


class FilesPath:
    """A message names a file; the trainer removes the file once every engine has used it up."""

    def __init__(self, config: PathConfig) -> None:
        self._folder = Path(config.folder)
        self._bucket_bytes = config.bucket_bytes

    def open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)

    def send(self, weights: WeightSet, line: Line | None) -> int:
        if line is None:
            for _ in weights.tensors:
                pass
            return 0
        size = 0
        in_use: deque[Path] = deque()
        for bucket in pack(weights.tensors, self._bucket_bytes):
            size += bucket.bytes
            path = self._write(bucket, weights.version)
            in_use.append(path)
            line.post(FileMessage(str(path), bucket.index, bucket.specs, bucket.digest))
            while len(in_use) >= AHEAD:
                in_use.popleft().unlink()
        line.end()
        for path in in_use:
            path.unlink()
        return size

    def receive(self, header: Header, messages: Iterator[Any]) -> WeightSet:
        return WeightSet(header.kind, header.version, _tensors(messages), adapter=header.adapter)

    def close(self) -> None:
        """Remove what an interrupted transfer left."""
        for path in self._folder.glob("v*.safetensors"):
            path.unlink(missing_ok=True)

    def _write(self, bucket: Bucket, version: int) -> Path:
        """The bucket as a file that appears whole."""
        path = self._folder / f"v{version}-{bucket.index:05d}.safetensors"
        partial = path.with_suffix(".partial")
        safetensors.torch.save_file(dict(unpack(bucket)), partial)
        os.replace(partial, path)
        return path


def _tensors(messages: Iterator[Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the files; each file is checked before its first tensor is used."""
    for message in messages:
        bucket = _read(message)
        verify(bucket)
        yield from unpack(bucket)
        del bucket


def _read(message: FileMessage) -> Bucket:
    """The bucket of a file, in memory, so that the file may go while a tensor is still in use."""
    try:
        tensors = safetensors.torch.load(Path(message.path).read_bytes())
        data = tuple(as_bytes(tensors[spec.name]) for spec in message.specs)
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise WeightError(
            f"weight file {message.path} cannot be read ({error!r}); both sides must see the run's folder"
        ) from error
    return Bucket(message.index, message.specs, data, message.digest)
