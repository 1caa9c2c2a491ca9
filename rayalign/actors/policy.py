"""The policy: the model that is aligned."""

from __future__ import annotations

from rayalign.actors.learner import LearnerActor


class PolicyActor(LearnerActor):
    """One rank of the policy."""

    role = "policy"
    head = "causal"
