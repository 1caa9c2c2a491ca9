"""The reference: the frozen model that the policy must stay near."""

from __future__ import annotations

from collections.abc import Sequence

from rayalign.actors.hosted import HostedActor
from rayalign.actors.slices import rank_rows
from rayalign.actors.store import Handle, fetch, keep
from rayalign.config import LearnerConfig
from rayalign.data.collate import collate_trajectories
from rayalign.types import Group


class ReferenceActor(HostedActor):
    """One replica of the reference."""

    def __init__(
        self, model: str, config: LearnerConfig, temperature: float, rank: int, world: int, timeout: float
    ) -> None:
        self._rank, self._world, self._timeout = rank, world, timeout
        self._source = (model, config, temperature)

    def setup(self) -> None:
        """Load the model."""
        from rayalign.models.frozen import Frozen

        self.use_threads()
        model, config, temperature = self._source
        self._model = Frozen(model, "causal", config, temperature=temperature)

    def evaluate(self, rollouts: Handle) -> Handle:
        """This replica's share of the rows; shares follow each other in the order of replicas."""
        return keep(self._model.evaluate(rank_rows(fetch(rollouts, self._timeout), self._rank, self._world)))

    def mean_logprobs(self, groups: Sequence[Group], pad_id: int) -> list[float]:
        """The mean log-prob of each candidate's own tokens."""
        rollouts = collate_trajectories(groups, pad_id=pad_id, version=0)
        logprobs_BT = self._model.evaluate(rank_rows(rollouts, 0, 1)).logprobs_BT
        assert logprobs_BT is not None
        mask_BT = rollouts.policy_mask_BT
        return list(((logprobs_BT * mask_BT).sum(1) / mask_BT.sum(1)).tolist())
