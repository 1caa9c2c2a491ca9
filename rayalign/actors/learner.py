"""The trained roles: policy and critic, each rank an actor around a Learner."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray

from rayalign.actors.hosted import HostedActor, Rendezvous
from rayalign.actors.store import Handle, fetch, keep, rank_rows
from rayalign.algorithms.base import Algorithm, load
from rayalign.config import LearnerConfig
from rayalign.types import Batch, Metrics, Role
from rayalign.weights.buckets import pack


@dataclass(frozen=True, slots=True)
class LearnerSpec:
    """Everything that a learner actor is made from."""

    model: str
    """folder or hub name"""
    config: LearnerConfig
    algorithm: Mapping[str, Any]
    temperature: float
    total_steps: int
    seed: int
    timeout: float
    """seconds until a batch made by another actor must be there"""


class LearnerActor(HostedActor):
    """One rank of a trained role; the loss comes from the algorithm, the data by reference."""

    role: Role
    head: Literal["causal", "scalar"]

    def __init__(self, spec: LearnerSpec) -> None:
        self._spec = spec
        self._exported: list[ray.ObjectRef] = []

    def setup(self, meeting: Rendezvous) -> None:
        """Meet the other ranks and load the model."""
        os.environ.update(meeting.environment())
        from rayalign.models.learner import Learner

        self.use_threads()
        spec = self._spec
        self._meeting = meeting
        self._algorithm: Algorithm[Any] = load(spec.algorithm)
        self._learner = Learner(
            spec.model,
            self.head,
            spec.config,
            role=self.role,
            temperature=spec.temperature,
            total_steps=spec.total_steps,
            seed=spec.seed,
            initial="zero",
        )

    def evaluate(self, rollouts: Handle) -> Handle:
        """This rank's share of the rows, forward only; shares follow each other in the order of ranks."""
        rows = rank_rows(fetch(rollouts, self._spec.timeout), self._meeting.rank, self._meeting.world)
        return keep(self._learner.evaluate(rows))

    def update(self, handle: Handle, seed: int) -> list[Metrics]:
        """All passes over the batch; the metrics of each optimizer step."""
        batch: Batch = fetch(handle, self._spec.timeout)
        steps: list[Metrics] = []
        for index in range(self._algorithm.passes):
            steps += self._learner.update(batch, self._algorithm, pass_index=index, seed=seed)
        return steps

    def save(self, folder: str, tokenizer: str) -> None:
        """Write the model as a Hugging Face folder with its tokenizer."""
        from rayalign.data.chat import load_tokenizer

        self._learner.save(Path(folder), load_tokenizer(tokenizer))

    def save_state(self, folder: str) -> None:
        """Write weights, optimizer, schedule and RNG."""
        self._learner.save_state(Path(folder))

    def load_state(self, folder: str) -> None:
        """Go on from `save_state`."""
        self._learner.load_state(Path(folder))

    def export(self) -> list[ray.ObjectRef]:
        """The weights as checksummed buckets in the object store, from rank 0; every rank takes part."""
        buckets = pack(self._learner.named_weights())
        if self._meeting.rank:
            for _ in buckets:  # the gathers are collective, so every rank goes through them
                pass
            return []
        self._exported = [ray.put(bucket) for bucket in buckets]
        return self._exported

    def probe(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs of fixed tokens as the trainer computes them, at temperature 1."""
        return self._learner.score_probe(token_ids)


class PolicyActor(LearnerActor):
    """One rank of the model that is aligned."""

    role = "policy"
    head = "causal"


class CriticActor(LearnerActor):
    """One rank of the scalar head that predicts the return of each state."""

    role = "critic"
    head = "scalar"
