"""What changes no gradient of any algorithm: the size of micro-batches, the number of ranks, padding and order.

Every file of `rayalign/algorithms` that is an algorithm is tested, with each of its switches. The pieces are those that
the Learner sums; `test_learner.py` and `coordinator/test_offline_ranks.py` have real ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from torch import Tensor

from rayalign.algorithms.base import Algorithm, algorithm_names, load
from rayalign.errors import InputError
from rayalign.models.batching import micro_batches, shard
from rayalign.models.objective import Objective
from rayalign.types import Batch, Rollouts
from tests.models.tiny import Tiny, make_rollouts, padded, reordered

WHOLE = 1 << 20
"""tokens of a micro-batch that holds any batch"""
CHANGES: dict[str, tuple[Any, ...]] = {"False": (True,), "True": (False,), "0.0": (0.1,), "None": (1.5, 7)}
"""what a setting is changed to, by its default; of several the first that it accepts"""


def variants(name: str) -> Iterator[Algorithm[Any]]:
    """An algorithm with its defaults, and with each of its settings changed that is a switch, a choice or off."""
    plain = load({"name": name})
    base = {"name": name, "max_length": 9} if hasattr(plain.config, "max_length") else {"name": name}
    yield load(base)
    for key, field in type(plain.config).model_fields.items():
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        for choice in choices:
            if choice != field.default:
                yield load(base | {key: choice})
        yield from _first_valid([base | {key: value} for value in CHANGES.get(repr(field.default), ())])


def _first_valid(settings: list[dict[str, Any]]) -> Iterator[Algorithm[Any]]:
    for each in settings:
        try:
            yield load(each)
            return
        except InputError:
            continue


def gradients(algorithm: Algorithm[Any], batch: Batch, *, world: int = 1, budget: int = WHOLE) -> list[Tensor]:
    """Of each trained role: the loss of one optimizer step and its gradient, summed over ranks and micro-batches."""
    results = []
    for role in algorithm.trains:
        model, reference = Tiny(100), Tiny(50)
        total = torch.zeros((), dtype=torch.float64)
        for rank in range(world):
            own_rows = partial(shard, rank=rank, world=world)
            for piece in Objective(batch, algorithm).pieces(role, own_rows, budget):
                outputs = model.outputs(piece.batch, reference)
                total = total + piece.scale * algorithm.loss(role, outputs, piece.batch).numerator
        parts = torch.autograd.grad(total, model.weights, allow_unused=True, materialize_grads=True)
        results += [torch.cat([total.detach()[None], *(part.flatten() for part in parts)])]
    return results


def assert_same(algorithm: Algorithm[Any], ours: list[Tensor], theirs: list[Tensor]) -> None:
    for expected, result in zip(ours, theirs, strict=True):
        assert expected[1:].abs().max() > 1e-6, f"{algorithm.config}: there is no gradient to compare"
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-11, msg=lambda m: f"{algorithm.config}: {m}")


def part_of(batch: Batch) -> Batch:
    """A minibatch: the rows of about two thirds of the units."""
    units = batch.unit_B.unique()
    units = units[torch.arange(len(units)) % 3 != 1]
    return batch.rows(torch.isin(batch.unit_B, units).nonzero().squeeze(1))


def cases(name: str) -> Iterator[tuple[Algorithm[Any], Rollouts, Batch]]:
    for number, algorithm in enumerate(variants(name)):
        rollouts = make_rollouts(algorithm, seed=number)
        yield algorithm, rollouts, algorithm.prepare(rollouts)


def shuffled(algorithm: Algorithm[Any], rollouts: Rollouts, seed: int) -> Tensor:
    """Rows with their groups in another order, and the rows of a group where theirs says nothing."""
    generator = torch.Generator().manual_seed(seed)
    groups = rollouts.group_B.unique()
    rows = []
    for group in groups[torch.randperm(len(groups), generator=generator)]:
        members = (rollouts.group_B == group).nonzero().squeeze(1)
        tied = len(rollouts.scores_B[members].unique()) < len(members)  # of equal ones the first may be the best
        if not algorithm.needs & {"preferences", "mismatched"} and not tied:
            members = members[torch.randperm(len(members), generator=generator)]
        rows.append(members)
    return torch.cat(rows)


@pytest.mark.parametrize("name", algorithm_names())
def test_the_size_of_micro_batches_changes_no_gradient(name: str) -> None:
    for algorithm, _, batch in cases(name):
        minibatch = part_of(batch)
        whole = gradients(algorithm, minibatch)
        assert len(micro_batches(minibatch, 1)) > 1
        for budget in (1, 20):
            assert_same(algorithm, whole, gradients(algorithm, minibatch, budget=budget))


@pytest.mark.parametrize("name", algorithm_names())
def test_the_number_of_ranks_changes_no_gradient(name: str) -> None:
    for algorithm, _, batch in cases(name):
        minibatch = part_of(batch)
        whole = gradients(algorithm, minibatch)
        for world, budget in ((2, 20), (len(minibatch) + 1, WHOLE)):
            assert_same(algorithm, whole, gradients(algorithm, minibatch, world=world, budget=budget))


@pytest.mark.parametrize("name", algorithm_names())
def test_padding_changes_no_gradient(name: str) -> None:
    for algorithm, rollouts, batch in cases(name):
        wider = algorithm.prepare(padded(rollouts, columns=5))
        assert wider["input_ids_BT"].shape[1] == batch["input_ids_BT"].shape[1] + 5
        assert wider.state == pytest.approx(batch.state)
        assert_same(algorithm, gradients(algorithm, batch), gradients(algorithm, wider))


@pytest.mark.parametrize("name", algorithm_names())
def test_the_order_of_samples_changes_no_gradient(name: str) -> None:
    for algorithm, rollouts, batch in cases(name):
        reordered_batch = algorithm.prepare(reordered(rollouts, shuffled(algorithm, rollouts, seed=1)))
        assert reordered_batch.state == pytest.approx(batch.state)
        assert_same(algorithm, gradients(algorithm, batch), gradients(algorithm, reordered_batch))


def test_switches_and_choices_are_found() -> None:
    configs = [algorithm.config for algorithm in variants("ppo")]
    assert {config.aggregation for config in configs} >= {"token-mean", "seq-mean-token-sum-norm"}
    assert {config.whiten_advantages for config in configs} == {True, False}
    assert {config.dual_clip for config in configs} == {None, 1.5}
