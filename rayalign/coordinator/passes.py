"""Which forward passes an iteration needs before its batch can be made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from rayalign.algorithms.base import Algorithm, Need
from rayalign.algorithms.ops import MISMATCH_METRICS
from rayalign.config import TrainStage
from rayalign.types import Role

AGREEMENT = 1e-4
"""largest gap of the probe at which an engine's log-probs stand for the trainer's [nats]; fp32 differs by 4e-6"""


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """One role's reading of the whole rollout batch."""

    field: str
    """of the rollouts, which it fills"""
    role: Role


PASSES: Mapping[Need, ForwardPass] = MappingProxyType(
    {
        "logprobs": ForwardPass("logprobs_BT", "policy"),
        "reference_logprobs": ForwardPass("reference_logprobs_BT", "reference"),
        "values": ForwardPass("values_BT", "critic"),
    }
)


def forward_passes(algorithm: Algorithm[Any], stage: TrainStage, gap: float) -> list[ForwardPass]:
    """The passes of one iteration, whose weights the engines had with this gap of the probe.

    The policy's own is left out where the engines' log-probs are the numbers that are needed: the answers are of the
    present weights, or the old policy is the one that wrote them; they are drawn from the whole distribution, and
    trainer and engines agree. A deterministic stage always computes it, so that a resumed run has the same bits, and
    so does one with a guard on the mismatch of the two.
    """
    needs = set(algorithm.needs)
    sampling = stage.sampling
    whole_distribution = not sampling.top_k and sampling.top_p == 1.0
    wrote_itself = all(source.source == "live" for source in stage.candidate_sources)
    old_policy_wrote = not stage.max_staleness or stage.overlapping.old_policy == "behaviour"
    agreement = gap <= AGREEMENT and not stage.deterministic
    watched = any(guard.metric in MISMATCH_METRICS for guard in stage.guards)
    engines_know = wrote_itself and old_policy_wrote and whole_distribution and agreement
    if algorithm.takes_engine_logprobs and engines_know and not watched:
        needs.discard("logprobs")
    return [PASSES[need] for need in sorted(needs) if need in PASSES]
