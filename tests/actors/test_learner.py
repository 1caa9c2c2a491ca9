"""Which reference a rank of the policy holds, without a cluster."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rayalign.actors.learner import LearnerSpec, PolicyActor
from rayalign.algorithms.base import load
from rayalign.config import LearnerConfig


@pytest.mark.parametrize("reference", ["someone/other", None])
def test_an_exact_divergence_is_measured_against_the_specs_reference(reference: str | None) -> None:
    algorithm = {"name": "quark", "kl_coefficient": 0.1}
    spec = LearnerSpec("someone/model", LearnerConfig(), algorithm, 1.0, 1, 0, 1.0, reference=reference)
    held: list[str | None] = []
    actor: Any = PolicyActor(spec)
    actor._algorithm = load(algorithm)
    actor._learner = SimpleNamespace(hold_reference=held.append)
    actor._hold_reference()
    assert held == [reference]
