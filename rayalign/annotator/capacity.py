"""Whether the deployments of a service fit on a machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rayalign.config import HostedJudgeConfig, RewardJudgeConfig, ServiceConfig
from rayalign.errors import InputError


class _Claim(NamedTuple):
    name: str
    cpus: float
    gpus: float


def refuse_what_does_not_fit(config: ServiceConfig, resources: Mapping[str, float]) -> None:
    """Refuse judges that ask for more than a machine or cluster has: Ray would wait for it without end.

    Args:
        resources: in all, by Ray's names.

    Raises:
        InputError: they do not fit.
    """
    claims = _claims(config)
    names = ", ".join(claim.name for claim in claims)
    cpus = sum(claim.cpus for claim in claims)
    gpus = sum(claim.gpus for claim in claims)
    for needed, kind, key in ((cpus, "CPU", "cpus"), (gpus, "GPU", "gpus")):
        available = resources.get(kind, 0.0)
        if needed > available:
            raise InputError(
                f"{names} together need {needed:g} {kind}s, and there are {available:g}; lower `{key}` or `replicas` "
                "in the service's file, or serve fewer judges at once"
            )


def _claims(config: ServiceConfig) -> list[_Claim]:
    """What each deployment asks for, with all its replicas."""
    claims = [_Claim("the service's front", config.replicas * config.cpus, 0.0)]
    for name, annotator in config.annotators.items():
        judge = annotator.judge
        if isinstance(judge, RewardJudgeConfig | HostedJudgeConfig):
            claims.append(_Claim(name, judge.replicas * judge.cpus, judge.replicas * judge.gpus))
    return claims
