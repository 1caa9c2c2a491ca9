"""The reference: the frozen model that the policy must stay near."""

from __future__ import annotations

from collections.abc import Sequence

from rayalign.actors.hosted import FrozenSpec, HostedActor, Rendezvous
from rayalign.actors.store import Handle, fetch, keep, rank_rows
from rayalign.data.collate import collate_trajectories
from rayalign.types import Group


class ReferenceActor(HostedActor):
    """One replica of the reference, or one rank of those that hold it in parts."""

    def __init__(self, spec: FrozenSpec) -> None:
        self._spec = spec

    def setup(self, meeting: Rendezvous) -> None:
        """Load the model."""
        from rayalign.models.load import Frozen
        from rayalign.models.spread import SharedModel, SpreadModel

        self.use_threads()
        self._meeting, spec = meeting, self._spec
        self._model: Frozen | SpreadModel
        self._whole: Frozen | SharedModel
        """the same model, for calls whose rows are not divided among the actors"""
        if meeting.spread:
            meeting.enter()
            self._model = SpreadModel(spec.model, "causal", spec.config, spec.temperature, spec.timeout)
            self._whole = SharedModel(self._model)
        else:
            self._model = self._whole = Frozen(spec.model, "causal", spec.config, spec.temperature)

    def evaluate(self, rollouts: Handle) -> Handle:
        """This actor's share of the rows; shares follow each other in the order of actors."""
        rows = rank_rows(fetch(rollouts, self._spec.timeout), self._meeting.rank, self._meeting.world)
        return keep(self._model.evaluate(rows))

    def offload(self, parts: Sequence[str]) -> None:
        """Move the model to host memory."""
        self._model.offload()

    def reload(self, parts: Sequence[str]) -> None:
        """Move the model back to its device."""
        self._model.reload()

    def close(self) -> None:
        """Release the model."""
        self._model.close()

    def mean_logprobs(self, groups: Sequence[Group], pad_id: int) -> list[float]:
        """The mean log-prob of each candidate's own tokens; ranks are all given the same groups."""
        rollouts = collate_trajectories(groups, pad_id=pad_id, version=0)
        logprobs_BT = self._whole.evaluate(rank_rows(rollouts, 0, 1)).logprobs_BT
        assert logprobs_BT is not None
        mask_BT = rollouts.policy_mask_BT
        return list(((logprobs_BT * mask_BT).sum(1) / mask_BT.sum(1)).tolist())
