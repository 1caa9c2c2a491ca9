"""What can be wrong with how the roles of a stage are hosted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from rayalign.config import UNSPREADABLE, RewardSource, RoleConfig
from rayalign.pipeline.kind import Problem
from rayalign.types import Role


def host_problems(
    roles: Mapping[Role, RoleConfig],
    *,
    runs: Collection[Role],
    trained: Collection[Role] = (),
    sources: Sequence[RewardSource] = (),
    online: bool = False,
) -> Iterator[Problem]:
    """Settings of a role's actors that would have no effect.

    Args:
        runs: the roles that the stage may run.
        trained: the roles that the stage trains.
        sources: what the `reward` actors ask for scores.
        online: the stage trains on what its live policy writes.
    """
    for role, host in roles.items():
        if role not in runs:
            yield f"roles.{role}", f"this stage runs no {role}; its roles: {', '.join(runs)}"
            continue
        if host.min_actors is not None and (online or role not in trained):
            yield f"roles.{role}.min_actors", "only a role trained offline goes on with fewer ranks; leave this out"
        if host.spread and role in trained:
            yield f"roles.{role}.spread", "a trained role lies in parts by its learner's zero_stage: 3; set that"
        if host.spread and role == "reward" and any(source.form != "model" for source in sources):
            yield f"roles.{role}.spread", UNSPREADABLE
        if host.within and not online:
            yield (
                f"roles.{role}.within",
                "only an online stage's reference runs in the ranks of its policy; leave this out",
            )
        elif host.within and role != "reference":
            yield f"roles.{role}.within", "only a reference runs in the ranks of the policy; leave this out"
