"""The generator: one rollout engine, driven by its own step loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rayalign.actors.hosted import HostedActor, Pulse, own_pulse
from rayalign.actors.store import path_end
from rayalign.config import LoraConfig, RolloutConfig
from rayalign.rollout import EngineName, build
from rayalign.rollout.base import Engine, EnginePart, Finished, Request, restart
from rayalign.rollout.decoding import Decoder
from rayalign.rollout.loop import EngineLoop
from rayalign.weights.files import read_folder
from rayalign.weights.paths.base import Header, PathConfig, WeightPath
from rayalign.weights.paths.inbox import Inbox
from rayalign.weights.sets import WeightSet


class GeneratorActor(HostedActor):
    """One engine of the pool. Ray calls it from several threads; only the loop's thread touches the engine."""

    def __init__(
        self, engine: EngineName, model: str, config: RolloutConfig, timeout: float, adapter: LoraConfig | None = None
    ) -> None:
        self._timeout = timeout
        self._source = (engine, model, config, adapter)
        self._path: WeightPath | None = None
        self._working: Callable[[], float] = lambda: 0.0
        self._decoder = Decoder()

    def setup(self) -> None:
        """Make the engine in its loop's thread."""
        on_cores = not self._source[2].gpus
        self._loop = EngineLoop(lambda: build(*self._source), yields=on_cores)
        self._working = self._loop.working
        self._loop.call(lambda engine: engine.version, timeout=self._timeout)

    def pulse(self) -> Pulse:
        """As `HostedActor.pulse`, with what the engine does."""
        return replace(own_pulse(), working=self._working())

    def submit(self, requests: Sequence[Request], tokenizer: str | None = None) -> None:
        """Accept candidates; they are decoded with the tokenizer of that model, where it is at hand here."""
        self._decoder.expect(tokenizer)
        self._loop.submit(requests)
        self._decoder.load()

    def abort(self, keys: Collection[str]) -> None:
        """Give up candidates."""
        self._loop.call(lambda engine: engine.abort(keys), timeout=self._timeout)

    def offload(self, parts: Sequence[EnginePart]) -> None:
        """Free the device memory, all of it at once; candidates that come meanwhile wait.

        An engine that takes adapters keeps its weights in host memory, since the next transfer may bring no base.
        """
        assert set(parts) == {"weights", "cache"}, "an engine sleeps as a whole"
        self._loop.pause(self._timeout)
        keep_weights = self._source[-1] is not None
        self._loop.call(lambda engine: engine.sleep(keep_weights=keep_weights), timeout=self._timeout)

    def reload(self, parts: Sequence[EnginePart]) -> None:
        """Allocate parts of the device memory again; with its cache the engine goes on writing."""
        for part in parts:
            self._loop.call(lambda engine, part=part: engine.wake(part), timeout=self._timeout)  # type: ignore[misc]
        if "cache" in parts:
            self._loop.resume(self._timeout)

    def collect(self, timeout: float) -> list[Finished]:
        """Candidates that have finished; waits for the first one, at most `timeout` seconds."""
        return self._decoder.with_texts(self._loop.collect(timeout))

    def open_path(self, config: PathConfig) -> None:
        """Prepare the engine's end of a weight path, in the place of the one before."""
        if self._path is not None:
            self._path.close()
        self._inbox = Inbox(config.timeout)
        self._path = path_end(config)
        self._path.open()

    def accept(self, number: int, parcel: Sequence[Any]) -> bool:
        """One message of the trainer; returns when it is used up, False where it will not be."""
        return self._inbox.accept(number, parcel[0])

    def receive(self, header: Header, restarts: bool = False) -> int:
        """Load what comes over the path; a failure ends the engine, whose weights may then be mixed.

        Args:
            restarts: write the candidates in flight anew; else they go on.

        Returns:
            How many candidates are written anew.
        """
        assert self._path is not None, "open_path comes first"
        weights = self._path.receive(header, self._inbox.messages())
        try:
            restarted = self._loop.call(lambda engine: _load(engine, weights, restarts), timeout=self._timeout)
        finally:
            self._inbox.close()
        self._inbox = Inbox(self._inbox.timeout)
        return restarted

    def give_up(self) -> None:
        """No more weights come: an engine in the midst of them ends, since they may be mixed."""
        self._inbox.close()

    def load_folder(self, folder: str, version: int) -> None:
        """Replace the weights by those of a model folder."""
        weights = WeightSet("full", version, read_folder(Path(folder)))
        self._loop.call(lambda engine: engine.load(weights), timeout=self._timeout)

    def score(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs of fixed tokens as the engine computes them, at temperature 1."""
        return self._loop.call(lambda engine: engine.score(token_ids), timeout=self._timeout)


def _load(engine: Engine, weights: WeightSet, restarts: bool) -> int:
    """Replace the weights between two tokens; how many candidates are written anew."""
    engine.load(weights)
    return restart(engine) if restarts else 0
