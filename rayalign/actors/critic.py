"""The critic: a scalar head that predicts the return of each state."""

from __future__ import annotations

from rayalign.actors.learner import LearnerActor


class CriticActor(LearnerActor):
    """One rank of the critic."""

    role = "critic"
    head = "scalar"
