"""Two objectives in one optimizer step, against plain torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rayalign.algorithms.base import load
from rayalign.data.collate import EncodedRow
from rayalign.data.rows import write_rows
from rayalign.models.heads import TokenLogprobs
from rayalign.models.mixture import Mixture, MixtureSpec
from tests.models.conftest import WEIGHTED, make_batch, make_learner, settings, weights

ROWS = [EncodedRow((5, 6, 7 + i, 8), (False, True, True, True), group=i) for i in range(8)]


@pytest.fixture
def spec(tmp_path: Path) -> MixtureSpec:
    write_rows(tmp_path / "rows", ROWS)
    return MixtureSpec({"name": "sft"}, str(tmp_path / "rows"), weight=3.0, samples=4)


def test_a_seed_draws_the_same_different_rows(spec: MixtureSpec) -> None:
    mixture = Mixture(spec)
    first, again, other = (mixture.draw(seed).batch["input_ids_BT"][:, 2].tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) == 4


def test_no_more_rows_are_drawn_than_there_are(spec: MixtureSpec) -> None:
    many = MixtureSpec(spec.algorithm, spec.rows, spec.weight, samples=100)
    assert len(Mixture(many).draw(0).batch) == len(ROWS)


@pytest.mark.parametrize("micro_tokens", [4096, 8])
def test_its_gradient_is_added_at_temperature_one(folder: str, spec: MixtureSpec, micro_tokens: int) -> None:
    config = settings(minibatch=12, micro_tokens=micro_tokens, clip_norm=1e6)
    learner = make_learner(folder, config, temperature=0.5)
    mixture = Mixture(spec)
    (metrics,) = learner.update(make_batch(), WEIGHTED, pass_index=0, seed=3, mixture=mixture)
    head = TokenLogprobs(AutoModelForCausalLM.from_pretrained(folder), temperature=0.5)
    batch, more = make_batch(), mixture.draw(3 * 1009 * 10007).batch
    logprobs_BT, _ = head(batch["input_ids_BT"], batch["attention_mask_BT"], batch["policy_mask_BT"])
    own = -(batch["advantages_BT"] * logprobs_BT).sum() / batch["policy_mask_BT"].sum()
    logprobs_BT, _ = head(more["input_ids_BT"], more["attention_mask_BT"], more["policy_mask_BT"], temperature=1.0)
    nll = -logprobs_BT.sum() / more["policy_mask_BT"].sum()
    (own + 3.0 * nll).backward()
    # with eps 1 and no memory, a step of Adam is rate * g / (|g| + 1)
    expected = {
        n: p - 0.5 * p.grad / (p.grad.abs() + 1) for n, p in head.model.named_parameters() if p.grad is not None
    }
    trained = weights(learner)
    for name, tensor in expected.items():
        torch.testing.assert_close(trained[name], tensor.detach(), atol=1e-5, rtol=0)
    assert metrics["mixture/sft"].value == pytest.approx(nll.item(), abs=1e-5)
    assert metrics["mixture/tokens"].value == 12
    assert metrics["loss/toy"].weight == batch["policy_mask_BT"].sum()


def test_metrics_of_the_algorithm_are_announced_under_new_names() -> None:
    from rayalign.models.metrics import MIXTURE, renamed

    assert renamed(MIXTURE, load({"name": "sft"}).metrics) == {
        "mixture/sft": "loss/sft",
        "mixture/tokens": "sft/tokens",
    }
