"""Both ends of a path in one process: a line to inboxes that threads read, as actors do."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from rayalign.errors import RayalignError
from rayalign.weights.buckets import Bucket
from rayalign.weights.paths.base import Header, WeightPath
from rayalign.weights.paths.inbox import Inbox
from rayalign.weights.paths.line import EngineLine
from rayalign.weights.sets import WeightSet

WAIT = 20.0
Tensors = dict[str, torch.Tensor]
Consumer = Callable[[WeightSet], Any]


class Ref:
    """What the store hands out; the bucket goes when nobody holds it."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket


@dataclass
class CountingStore:
    """An object store that counts the buckets that somebody still holds."""

    alive: weakref.WeakSet[Ref] = field(default_factory=weakref.WeakSet)
    most: int = 0
    puts: int = 0

    def put(self, bucket: Bucket) -> Any:
        ref = Ref(bucket)
        self.alive.add(ref)
        self.most = max(self.most, len(self.alive))
        self.puts += 1
        return ref

    @staticmethod
    def get(ref: Any) -> Bucket:
        bucket: Bucket = ref.bucket
        return bucket


@dataclass
class _Answer:
    future: Future[bool]

    def wait(self) -> bool:
        return self.future.result(WAIT)


@dataclass
class _Endpoint:
    inbox: Inbox
    threads: ThreadPoolExecutor

    def start(self, number: int, message: Any) -> _Answer:
        box = [message]
        del message
        # A thread pool holds the arguments of a call a little longer than its result.
        return _Answer(self.threads.submit(lambda: self.inbox.accept(number, box.pop())))


Send = Callable[..., tuple[int, list[Any]]]


@pytest.fixture
def send() -> Iterator[Send]:
    """Sends a set from one end to as many others as there are consumers: bytes, and what each consumer returned."""
    threads = ThreadPoolExecutor(16)

    def run(trainer: WeightPath, engines: list[WeightPath], weights: WeightSet, consume: Consumer) -> Any:
        inboxes = [Inbox(WAIT) for _ in engines]
        header = Header(weights.kind, weights.version)

        def receive(path: WeightPath, inbox: Inbox) -> Any:
            try:
                return consume(path.receive(header, inbox.messages()))
            except RayalignError as error:
                return error
            finally:
                inbox.close()

        futures = [threads.submit(receive, path, inbox) for path, inbox in zip(engines, inboxes, strict=True)]
        size = trainer.send(weights, EngineLine([_Endpoint(inbox, threads) for inbox in inboxes]))
        return size, [future.result(WAIT) for future in futures]

    yield run
    threads.shutdown()


@pytest.fixture
def tensors() -> Tensors:
    """Ten tensors of 4 KiB."""
    torch.manual_seed(0)
    return {f"layer.{i}": torch.randn(32, 32) for i in range(10)}


def read_all(weights: WeightSet) -> Tensors:
    """What an engine gets, copied as an engine does."""
    copies: Tensors = {}
    for name, tensor in weights.tensors:
        copies[name] = tensor.clone()
        del tensor
    return copies
