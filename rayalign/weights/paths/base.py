"""The contract of a weight path. Each path is one class with both ends; one instance lives at each end.

    trainer, every rank              rank 0 alone                 each engine
      open                                                          open
      send(weights, line)   ->   line.post(message)  -> inbox ->    receive(header, messages) -> WeightSet
      close                                                         close

Messages are small: references, file names, descriptions. The line waits until all engines have used a message up, so
that at most `AHEAD` buckets exist on either side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from rayalign.config import LoraConfig
from rayalign.weights.buckets import BUCKET_BYTES
from rayalign.weights.sets import Form, Kind, WeightSet

PathName = Literal["store", "files", "nccl", "ipc"]
AHEAD = 2
"""buckets under way at a time"""


@dataclass(frozen=True, slots=True)
class PathConfig:
    """Everything that both ends of a path must agree on."""

    name: PathName
    timeout: float
    """seconds that any wait inside the path may take"""
    folder: str = ""
    """of the path `files`; both sides see it"""
    bucket_bytes: int = BUCKET_BYTES
    tensor_parallel: int = 1
    """devices of one engine"""
    address: str = ""
    """of the trainer's rank 0"""
    port: int = 0
    """a free one there"""


@dataclass(frozen=True, slots=True)
class Header:
    """What an engine knows of a weight set before its tensors come."""

    kind: Kind
    version: int
    form: Form = "merged"
    """what of its weights the trainer sends"""
    adapter: LoraConfig | None = None
    """of a set that is an adapter"""


class Line(Protocol):
    """What the trainer's rank 0 sees of the engines."""

    @property
    def engines(self) -> int:
        """How many still receive."""

    def post(self, message: Any, *, ahead: int = AHEAD) -> None:
        """Send a message to every engine; return once fewer than `ahead` messages are in use."""

    def post_each(self, messages: Sequence[Any]) -> None:
        """Send each engine its own message and wait until all are used up."""

    def end(self) -> None:
        """Wait until all messages are used up; the engines' `messages` end."""


class WeightPath(Protocol):
    """One way for weights to travel."""

    def open(self) -> None:
        """Prepare this end; called again after `close`."""

    def send(self, weights: WeightSet, line: Line | None) -> int:
        """Send one set and return its bytes; without a line (all ranks but 0) only take part in the gathers."""

    def receive(self, header: Header, messages: Iterator[Any]) -> WeightSet:
        """The set that the messages bring, lazily: the engine reads its tensors once, while it loads them.

        Raises:
            WeightError: while the tensors are read, where one did not arrive as it was sent.
        """

    def close(self) -> None:
        """Release what this end holds."""
