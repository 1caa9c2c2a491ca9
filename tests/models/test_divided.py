"""A group of many candidates in parts has the gradient of one forward pass over all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rayalign.algorithms.base import Algorithm, AlgorithmConfig, load
from rayalign.errors import GuardError
from rayalign.models.divided import divided, is_large, parts_of
from rayalign.models.heads import Head, TokenLogprobs, TokenValues, as_outputs, read
from rayalign.models.objective import Objective, Piece
from rayalign.types import Batch, LossSum, Metric, Metrics, Minibatch, Outputs, Role
from tests.models.conftest import Weighted, make_batch, make_learner, settings, weights


class Squares(Weighted):
    """Squares of sums over all rows: of their log-probs and of their entropies."""

    def loss(self, role: Role, outputs: Outputs, minibatch: Minibatch) -> LossSum:
        assert outputs.logprobs_BT is not None and outputs.entropy_BT is not None
        total = (outputs.logprobs_BT.sum() / 99).square() + (outputs.entropy_BT.sum() / 99).square()
        return LossSum(total, 1.0, {"loss/toy": Metric(total.item())})


ALGORITHMS: dict[str, tuple[Role, Algorithm[Any]]] = {
    "rrhf": ("policy", load({"name": "rrhf"})),
    "published": ("policy", load({"name": "rrhf", "published_arithmetic": True, "sft_weight": 0.5})),
    "entropy": ("policy", Squares(AlgorithmConfig(name="squares"))),
    "reward": ("reward", load({"name": "reward", "margin": 0.1})),
}


def group() -> Batch:
    """Six candidates of one prompt; two of them tie, and one has no score."""
    batch = make_batch(rows=6)
    scores_B = torch.tensor([1.0, 3.0, 3.0, -2.0, float("nan"), 0.5])
    return Batch({**batch.tensors, "scores_B": scores_B}, torch.zeros(6, dtype=torch.long))


def head_of(folder: str, role: Role) -> Head:
    if role == "policy":
        return TokenLogprobs(AutoModelForCausalLM.from_pretrained(folder, attention_dropout=0.0))
    torch.manual_seed(1)
    scorer = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, attention_dropout=0.0)
    return TokenValues(scorer)


class Reader:
    """Reads with a head, and notes how much at once."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.sizes: list[tuple[int, int]] = []

    def outputs(self, batch: Batch) -> Outputs:
        return as_outputs(self.head, *read(self.head, batch))

    @torch.no_grad()
    def read(self, piece: Piece | None) -> Outputs:
        assert piece is not None
        self.sizes.append((len(piece.batch), piece.batch["input_ids_BT"].numel()))
        return self.outputs(piece.batch)

    def gradients(self, pieces: list[Piece]) -> tuple[dict[str, torch.Tensor], list[Metrics]]:
        """Of all pieces together, and the metrics of each."""
        metrics = []
        for piece in pieces:
            loss_sum = piece.loss(self.outputs(piece.batch), piece.batch)
            (loss_sum.numerator * piece.scale).backward()
            metrics.append(loss_sum.metrics)
        return {name: x.grad.clone() for name, x in self.head.named_parameters() if x.grad is not None}, metrics


@pytest.mark.parametrize("budget", [1, 30, 45])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_parts_have_the_gradient_and_the_metrics_of_the_whole(folder: str, name: str, budget: int) -> None:
    role, algorithm = ALGORITHMS[name]
    objective = Objective(group(), algorithm)
    [piece] = objective.pieces(role, lambda batch: batch, budget)
    wanted, [metrics] = Reader(head_of(folder, role)).gradients([piece])
    reader = Reader(head_of(folder, role))
    parts = divided([piece], budget, reader.read, int)
    got, part_metrics = reader.gradients(parts)
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    assert largest > 1e-3
    torch.testing.assert_close(got, wanted, atol=1e-6 * max(1.0, largest), rtol=1e-5)
    assert len(parts) > 1 and all(rows == 1 or size <= budget for rows, size in reader.sizes)
    assert values(part_metrics[0]) == pytest.approx(values(metrics), abs=1e-5, nan_ok=True)
    assert not any(part_metrics[1:])


def values(metrics: Metrics) -> dict[str, float]:
    return {name: metric.value for name, metric in metrics.items()}


def test_only_several_rows_over_the_budget_are_divided() -> None:
    batch = group()
    size = batch["input_ids_BT"].numel()
    assert is_large(batch, size - 1) and not is_large(batch, size)
    assert not is_large(batch.rows(torch.tensor([0])), 1)
    assert sorted(torch.cat(parts_of(batch, 30)).tolist()) == list(range(6))


@pytest.mark.parametrize("changes", [{"zero_stage": 1}, {"zero_stage": 3}, {"gradient_checkpointing": True}])
def test_a_learner_takes_the_same_step(folder: str, changes: dict[str, Any]) -> None:
    rrhf, after = load({"name": "rrhf"}), []
    for micro_tokens in (4096, 30):
        learner = make_learner(folder, settings(micro_tokens=micro_tokens, minibatch=6, **changes))
        metrics = learner.step(group(), rrhf)
        losses = {name: value for name, value in values(metrics).items() if not name.startswith("learner/")}
        after.append((weights(learner), losses))
    torch.testing.assert_close(after[1][0], after[0][0], atol=1e-6, rtol=0)
    assert after[1][1] == pytest.approx(after[0][1], rel=1e-4)


def test_a_loss_that_is_not_finite_costs_the_step(folder: str) -> None:
    learner = make_learner(folder, settings(micro_tokens=30, minibatch=6))
    before = weights(learner)
    with pytest.raises(GuardError):
        learner.step(group(), load({"name": "rrhf", "sft_weight": 3e38}))
    torch.testing.assert_close(weights(learner), before, atol=0, rtol=0)
