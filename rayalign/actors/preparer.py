"""The CPU work between rollout and update; its tensors never leave the object store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rayalign.actors.hosted import HostedActor, Rendezvous
from rayalign.actors.store import Handle, fetch, keep
from rayalign.algorithms.base import load
from rayalign.data.collate import collate_trajectories
from rayalign.types import Batch, Group, Metrics, Outputs, Rollouts


@dataclass(frozen=True, slots=True)
class PreparerSpec:
    """What the preparer is made from."""

    algorithm: Mapping[str, Any]
    timeout: float
    """seconds until what another actor made must be there"""
    reward_tokens: tuple[int, ...] = ()
    """ids of the policy's reward tokens, the best first"""


class PreparerActor(HostedActor):
    """Collates groups, and runs the algorithm's `prepare` over the whole batch."""

    def __init__(self, spec: PreparerSpec) -> None:
        self._algorithm = load(spec.algorithm)
        self._timeout = spec.timeout
        self._reward_tokens = spec.reward_tokens

    def setup(self, meeting: Rendezvous) -> None:
        """Nothing: it loads no model, and there is one of it."""

    def collate(self, groups: Sequence[Group], pad_id: int, version: int) -> Handle:
        """Groups as padded `Rollouts`; staleness is counted against `version`."""
        return keep(collate_trajectories(groups, pad_id=pad_id, version=version))

    def prepare(
        self, rollouts: Handle, outputs: Mapping[str, Sequence[Handle]], state: Mapping[str, float]
    ) -> tuple[Handle, Mapping[str, float], Metrics]:
        """The batch, the controllers' new state, and the metrics of the rollouts.

        `outputs` names the field that the ranks' outputs, in their order, fill: `logprobs_BT` and the like. Without
        the policy's own log-probs those of the engines take their place.
        """
        fetched: Rollouts = fetch(rollouts, self._timeout)
        filled: dict[str, Any] = {"state": dict(state), "reward_tokens": self._reward_tokens}
        if "logprobs" in self._algorithm.needs:
            filled["logprobs_BT"] = fetched.behaviour_logprobs_BT
        for name, shares in outputs.items():
            filled[name] = torch.cat([_per_token(fetch(share, self._timeout)) for share in shares])
        batch = self._algorithm.prepare(replace(fetched, **filled))
        return keep(Batch(batch.tensors, batch.unit_B)), batch.state, batch.metrics


def _per_token(outputs: Outputs) -> torch.Tensor:
    tokens_BT = outputs.values_BT if outputs.logprobs_BT is None else outputs.logprobs_BT
    assert tokens_BT is not None
    return tokens_BT
