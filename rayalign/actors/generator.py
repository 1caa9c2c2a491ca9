"""The generator: one rollout engine, driven by its own step loop."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import ray

from rayalign.actors.hosted import HostedActor
from rayalign.config import RolloutConfig
from rayalign.rollout import EngineName, build
from rayalign.rollout.base import Finished, Request
from rayalign.rollout.loop import EngineLoop
from rayalign.weights.buckets import Bucket, unpack, verify
from rayalign.weights.files import read_folder


class GeneratorActor(HostedActor):
    """One engine of the pool. Ray calls it from several threads; only the loop's thread touches the engine."""

    def __init__(self, engine: EngineName, model: str, config: RolloutConfig, timeout: float) -> None:
        self._timeout = timeout
        self._source = (engine, model, config)

    def setup(self) -> None:
        """Make the engine in its loop's thread."""
        self._loop = EngineLoop(lambda: build(*self._source))
        self._loop.call(lambda engine: engine.version, timeout=self._timeout)

    def submit(self, requests: Sequence[Request]) -> None:
        """Accept candidates."""
        self._loop.submit(requests)

    def collect(self, timeout: float) -> list[Finished]:
        """Candidates that have finished; waits for the first one, at most `timeout` seconds."""
        return self._loop.collect(timeout)

    def load(self, refs: Sequence[ray.ObjectRef], version: int) -> int:
        """Replace the weights by buckets from the object store, each verified first; the bytes loaded."""
        buckets: list[Bucket] = ray.get(list(refs), timeout=self._timeout)
        for bucket in buckets:
            verify(bucket)
        named = itertools.chain.from_iterable(unpack(bucket) for bucket in buckets)
        self._loop.call(lambda engine: engine.load(named, version), timeout=self._timeout)
        return sum(bucket.bytes for bucket in buckets)

    def load_folder(self, folder: str, version: int) -> None:
        """Replace the weights by those of a model folder."""
        self._loop.call(lambda engine: engine.load(read_folder(Path(folder)), version), timeout=self._timeout)

    def score(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs of fixed tokens as the engine computes them, at temperature 1."""
        return self._loop.call(lambda engine: engine.score(token_ids), timeout=self._timeout)
