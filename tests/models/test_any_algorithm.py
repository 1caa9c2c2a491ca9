"""One optimizer step of every algorithm: at ZeRO stages 1 to 3 the same as without, with an adapter the same loss.

test_invariance.py has the gradients for any micro-batches and ranks, test_learner.py real ranks for one loss.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rayalign.algorithms.base import Algorithm, algorithm_names, load
from rayalign.coordinator.offline_data import head_of
from rayalign.models.learner import Learner
from rayalign.models.metrics import METRICS
from rayalign.types import Batch, Metrics, Role
from tests.models.conftest import make_learner, settings, weights
from tests.models.tiny import make_rollouts

LORA = {"lora": {"rank": 4, "alpha": 8}}
LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "zero1": {"zero_stage": 1},
    "zero2": {"zero_stage": 2},
    "zero3": {"zero_stage": 3},
    "lora": LORA,
    "lora-zero2": LORA | {"zero_stage": 2},
    "lora-zero3": LORA | {"zero_stage": 3},
}
Weights = dict[str, torch.Tensor]
Learners = Callable[[str, Role, Algorithm[Any]], Learner]


@pytest.fixture(scope="module")
def learners(folder: str, tmp_path_factory: pytest.TempPathFactory) -> Learners:
    """A learner of each layout and head, set back to where it started each time that it is asked for."""
    made: dict[tuple[str, str], tuple[Learner, Path]] = {}

    def learner(layout: str, role: Role, algorithm: Algorithm[Any]) -> Learner:
        head = head_of(role, algorithm)
        if (layout, head) not in made:
            config = settings(**LAYOUTS[layout])
            own = make_learner(folder, config, head=head, role="policy" if head == "causal" else role)
            state = tmp_path_factory.mktemp("state")
            own.save_state(state)
            made[layout, head] = own, state
        own, state = made[layout, head]
        own.load_state(state)
        own.role = role
        return own

    return learner


def batch_of(algorithm: Algorithm[Any]) -> Batch:
    """As the coordinator makes it, in the model's precision."""
    batch = algorithm.prepare(make_rollouts(algorithm, seed=0))
    for name, tensor in batch.tensors.items():
        if tensor.dtype == torch.float64:
            batch.tensors[name] = tensor.float()
    return batch


def step(
    learners: Learners, layout: str, role: Role, algorithm: Algorithm[Any], folder: str
) -> tuple[Weights, Metrics]:
    """Weights and metrics after one step on the whole batch."""
    learner = learners(layout, role, algorithm)
    if "exact_kl" in algorithm.needs:
        learner.hold_reference(None if "lora" in layout else folder)
    metrics = learner.step(batch_of(algorithm), algorithm)
    return weights(learner), {name: metric for name, metric in metrics.items() if name not in METRICS}


def cases() -> list[tuple[str, Role]]:
    pairs: list[tuple[str, Role]] = []
    for name in algorithm_names():
        pairs += [(name, role) for role in load({"name": name}).trains]
    return pairs


@pytest.mark.parametrize(("name", "role"), cases())
def test_one_step_is_the_same_at_any_zero_stage_and_its_loss_with_an_adapter(
    learners: Learners, folder: str, name: str, role: Role
) -> None:
    algorithm = load({"name": name})
    ends = {}
    for layout in LAYOUTS:
        if "exact_kl" in algorithm.needs and layout.endswith("zero3"):
            continue  # `check` refuses it
        ends[layout] = step(learners, layout, role, algorithm, folder)
    start = weights(learners("plain", role, algorithm))
    plain, losses = ends["plain"]
    assert any((plain[key] - tensor).abs().max() > 1e-5 for key, tensor in start.items())
    adapted, _ = ends["lora"]
    assert any((adapted[key] - tensor).abs().max() > 1e-6 for key, tensor in start.items())
    for layout, (own, metrics) in ends.items():
        expected = adapted if "lora" in layout else plain
        torch.testing.assert_close(own, expected, atol=2e-6, rtol=0)
        values = {key: metric.value for key, metric in metrics.items()}
        assert values == pytest.approx({key: metric.value for key, metric in losses.items()}, rel=1e-4, abs=1e-6)
