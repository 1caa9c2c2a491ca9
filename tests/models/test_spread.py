"""Frozen models in parts on two ranks give the numbers of a whole one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rayalign.models.load import Frozen
from rayalign.models.spread import SpreadModel
from rayalign.types import Outputs
from tests.models.conftest import make_batch, run_two_ranks
from tests.models.spread_ranks import CONFIG, HEADS, OWN


@pytest.fixture(scope="module")
def ranks(folder: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes read; see spread_ranks.py."""
    out = tmp_path_factory.mktemp("spread")
    run_two_ranks("tests.models.spread_ranks", folder, out)
    return [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_each_rank_holds_its_part_alone(ranks: list[dict[str, Any]], folder: str) -> None:
    whole = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder).parameters())
    for rank in ranks:
        assert rank["causal"]["held"] == 0
        assert whole / 2 <= rank["causal"]["parts"] < 0.6 * whole


def test_ranks_with_rows_of_their_own_read_in_step_though_one_has_none(
    ranks: list[dict[str, Any]], folder: str
) -> None:
    whole = Frozen(folder, "causal", CONFIG, temperature=0.8)
    for rank, rows in zip(ranks, OWN, strict=True):
        outputs: Outputs = rank["causal"]["before"]
        expected = whole.evaluate(make_batch().rows(torch.tensor(list(rows), dtype=torch.long)))
        assert outputs.logprobs_BT.shape == expected.logprobs_BT.shape
        torch.testing.assert_close(outputs.logprobs_BT, expected.logprobs_BT, atol=1e-6, rtol=0)
        assert outputs.entropy_BT is None


def test_ranks_with_the_same_rows_all_get_all_outputs(ranks: list[dict[str, Any]], folder: str) -> None:
    scores_B = Frozen(folder, "scalar", CONFIG).evaluate(make_batch()).scores_B
    values_BT = Frozen(folder, "scalar", CONFIG).evaluate(make_batch()).values_BT
    logprobs_BT = Frozen(folder, "causal", CONFIG).evaluate(make_batch()).logprobs_BT
    for rank in ranks:
        torch.testing.assert_close(rank["scalar"]["before"].scores_B, scores_B, atol=1e-6, rtol=0)
        torch.testing.assert_close(rank["scalar"]["before"].values_BT, values_BT, atol=1e-6, rtol=0)
        torch.testing.assert_close(rank["shared"]["logprobs"], logprobs_BT, atol=1e-6, rtol=0)
        assert rank["shared"]["longest"] == Frozen(folder, "causal", CONFIG).longest


def test_its_parts_stay_on_the_device_whatever_trained_models_offload(folder: str) -> None:
    model = SpreadModel(folder, "causal", CONFIG.model_copy(update={"zero_stage": 3, "offload": "all"}))
    assert model._engine.zero_offload_param() is None
    model.close()


@pytest.mark.parametrize("head", HEADS)
def test_it_answers_as_before_once_it_is_back_and_keeps_no_memory_once_it_is_closed(
    ranks: list[dict[str, Any]], head: str
) -> None:
    for rank in ranks:
        before, after = rank[head]["before"], rank[head]["after"]
        for name in ("logprobs_BT", "values_BT", "scores_B"):
            assert getattr(before, name) is None or torch.equal(getattr(before, name), getattr(after, name))
        assert rank[head]["kept"] == 0
