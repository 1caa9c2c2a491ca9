"""The actors of `scale`: engines, a reward and ranks of a learner that cost nothing and import no torch."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import ray
from tokenizers import Tokenizer

from rayalign.actors.wire import Door, WireEnd
from rayalign.rollout.base import Finished, Request
from rayalign.types import Group, Score

TOKENS = 64
"""of each answer"""


class Hosted:
    """What the run's own actors answer, whatever their role; their base class imports torch."""

    def listen(self, threads: int) -> Door:
        """Wait at a door for the coordinator, as `HostedActor.listen`."""
        return WireEnd(self, ray.util.get_node_ip_address(), threads).door


class ScriptedGenerator(Hosted):
    """An engine that writes one group after another, each in the same time; all its candidates end together."""

    def __init__(self, seconds: float, group: int) -> None:
        """
        Args:
            seconds: for one group.
            group: candidates of one.
        """
        self._seconds = seconds
        self._group = group
        self._version = 0
        self._tokenizer: Tokenizer | None = None
        self._waiting: deque[Request] = deque()
        self._finished: deque[Finished] = deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._write, daemon=True).start()

    def submit(self, requests: Sequence[Request], tokenizer: str) -> None:
        """Accept candidates, to be decoded with the tokenizer of that model."""
        self._tokenizer = self._tokenizer or Tokenizer.from_file(f"{tokenizer}/tokenizer.json")
        with self._changed:
            self._waiting.extend(requests)
            self._changed.notify_all()

    def collect(self, timeout: float) -> list[Finished]:
        """Candidates that have finished; waits for the first one, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._finished), timeout)
            finished = list(self._finished)
            self._finished.clear()
            return finished

    def imports_torch(self) -> bool:
        """Whether this process has paid for torch."""
        return "torch" in sys.modules

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                requests = [self._waiting.popleft() for _ in range(min(self._group, len(self._waiting)))]
            time.sleep(self._seconds)
            answers = [self._answer(request) for request in requests]
            with self._changed:
                self._finished.extend(answers)
                self._changed.notify_all()

    def _answer(self, request: Request) -> Finished:
        tokens = tuple(8 + (request.seed + place) % 200 for place in range(TOKENS))
        logprobs = tuple(-0.01 * (token % 97) for token in tokens)
        assert self._tokenizer is not None, "it came with the request"
        text = self._tokenizer.decode(list(tokens), skip_special_tokens=True).strip()
        return Finished(request.key, tokens, logprobs, ((0, self._version),), "length", text=text)


class ScriptedReward(Hosted):
    """The length of an answer as its score."""

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """One score for each candidate of each group."""
        return [tuple(Score(float(len(each.text))) for each in group.trajectories) for group in groups]


class ScriptedRank:
    """A rank of a learner that computes nothing and answers as one does."""

    def evaluate(self, batch: Any) -> Any:
        """The handle of a share of log-probs: here that of the batch."""
        return batch

    def update(self, batch: Any, seed: int) -> list[dict[str, float]]:
        """Metrics of four optimizer steps, merged over the ranks."""
        return [{f"learner/figure_{number}": float(seed) for number in range(20)} for _ in range(4)]

    def save_state(self, folder: str) -> None:
        """A checkpoint."""
