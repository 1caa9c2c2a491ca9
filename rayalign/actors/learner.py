"""The trained roles: policy and critic, each rank an actor around a Learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rayalign.actors.hosted import HostedActor, Rendezvous, free_port
from rayalign.actors.line import line_to
from rayalign.actors.store import Handle, fetch, keep, path_end, rank_rows
from rayalign.algorithms.base import Algorithm, load
from rayalign.config import LearnerConfig
from rayalign.types import Batch, Metrics, Role
from rayalign.weights.paths.base import Header, PathConfig, WeightPath

if TYPE_CHECKING:
    from rayalign.models.load import Frozen
    from rayalign.models.mixture import MixtureSpec
    from rayalign.models.offload import LearnerPart
    from rayalign.models.spread import SpreadModel


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
    """seconds until a batch made by another actor must be there, and until the ranks must have met"""
    mixture: MixtureSpec | None = None
    """a second objective that is trained in the same optimizer steps"""
    reference: str | None = None
    """of the policy: the frozen model in its ranks; None: the policy without its adapter, or actors of its own"""
    inspection: str | None = None
    """folder for a minibatch whose loss is not finite; None: it is not saved"""


class LearnerActor(HostedActor):
    """One rank of a trained role; the loss comes from the algorithm, the data by reference."""

    role: Role
    head: Literal["causal", "scalar"]

    def __init__(self, spec: LearnerSpec) -> None:
        self._spec = spec
        self._path: WeightPath | None = None
        self._reference: Frozen | SpreadModel | None = None

    def setup(self, meeting: Rendezvous) -> None:
        """Meet the other ranks and load the model."""
        meeting.enter()
        from rayalign.models.learner import Learner
        from rayalign.models.mixture import Mixture

        self.use_threads()
        spec = self._spec
        self._meeting = meeting
        self._algorithm: Algorithm[Any] = load(spec.algorithm)
        self._mixture = Mixture(spec.mixture) if spec.mixture else None
        self._learner = Learner(
            spec.model,
            self.head,
            spec.config,
            role=self.role,
            temperature=spec.temperature,
            total_steps=spec.total_steps,
            seed=spec.seed,
            initial="zero",
            inspection=Path(spec.inspection) if spec.inspection else None,
            timeout=spec.timeout,
        )
        if self.role == "policy":
            self._hold_reference()

    def _hold_reference(self) -> None:
        """Load the reference that runs in these ranks, if it does; in parts where the policy lies in parts."""
        spec = self._spec
        if "exact_kl" in self._algorithm.needs:
            self._learner.hold_reference(spec.reference)
        elif spec.reference is not None:
            from rayalign.models.spread import frozen_beside

            self._reference = frozen_beside(spec.reference, spec.config, self._meeting.world, spec.temperature)

    def evaluate(self, rollouts: Handle) -> Handle:
        """This rank's share of the rows, forward only; shares follow each other in the order of ranks."""
        rows = rank_rows(fetch(rollouts, self._spec.timeout), self._meeting.rank, self._meeting.world)
        return keep(self._learner.evaluate(rows))

    def evaluate_reference(self, rollouts: Handle) -> Handle:
        """As `evaluate`, of the reference in these ranks: a model of its own, or the policy without its adapter."""
        rows = rank_rows(fetch(rollouts, self._spec.timeout), self._meeting.rank, self._meeting.world)
        if self._reference is not None:
            return keep(self._reference.evaluate(rows))
        return keep(self._learner.evaluate(rows, adapter=False))

    def update(self, handle: Handle, seed: int) -> list[Metrics]:
        """All passes over the batch; the metrics of each optimizer step."""
        batch: Batch = fetch(handle, self._spec.timeout)
        steps: list[Metrics] = []
        for index in range(self._algorithm.passes):
            steps += self._learner.update(batch, self._algorithm, pass_index=index, seed=seed, mixture=self._mixture)
        return steps

    def offload(self, parts: Sequence[LearnerPart]) -> None:
        """Move parts of what the learner has on its device to host memory."""
        self._learner.device_state.offload(parts)

    def reload(self, parts: Sequence[LearnerPart]) -> None:
        """Move parts back to the device."""
        self._learner.device_state.reload(parts)

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

    def open_path(self, config: PathConfig) -> None:
        """Prepare the trainer's end of a weight path, in the place of the one before."""
        self.close_path()
        self._timeout = config.timeout
        self._path = path_end(replace(config, address=self._meeting.address, port=free_port()))
        self._path.open()

    def close_path(self) -> None:
        """Release the trainer's end of the weight path."""
        if self._path is not None:
            self._path.close()
        self._path = None

    def send(self, header: Header, generators: Sequence[Any]) -> int:
        """Send the weights to the generators and return the bytes; other ranks than 0 take part in the gathers."""
        assert self._path is not None, "open_path comes first"
        weights = self._learner.weights(header.version, header.form)
        line = None if self._meeting.rank else line_to(generators, self._timeout)
        return self._path.send(weights, line)

    def probe(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs of fixed tokens as the trainer computes them, at temperature 1.

        Where rank 0 has all weights it is the only one to answer: the others leave their cores to the engines.
        """
        from rayalign.models.zero import lies_in_parts

        if self._meeting.rank and not lies_in_parts(self._spec.config, self._meeting.world):
            return []
        return self._learner.score_probe(token_ids)

    def close(self) -> None:
        """Release the weight path, the reference and the engine of the learner."""
        self.close_path()
        if self._reference is not None:
            self._reference.close()
        self._learner.close()


class PolicyActor(LearnerActor):
    """One rank of the model that is aligned."""

    role = "policy"
    head = "causal"


class CriticActor(LearnerActor):
    """One rank of the scalar head that predicts the return of each state."""

    role = "critic"
    head = "scalar"
