"""The actors of frozen models in parts, as two processes without Ray."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rayalign.actors.hosted import Rendezvous
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.models.load import make_preset
from tests.actors.spread_ranks import DEADLINE, GROUPS, reference, reward
from tests.models.conftest import run_two_ranks

ALONE = Rendezvous(0, 1, "127.0.0.1", 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    make_preset("nano", build_tokenizer(), 0, folder)
    return str(folder)


@pytest.fixture(scope="module")
def ranks(model: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks answered; see spread_ranks.py."""
    out = tmp_path_factory.mktemp("ranks")
    run_two_ranks("tests.actors.spread_ranks", model, out)
    return [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_each_rank_of_a_reference_reads_a_share_of_the_answers_and_knows_all_means(
    ranks: list[dict[str, Any]], model: str
) -> None:
    whole = reference(model)
    whole.setup(ALONE)
    means = whole.mean_logprobs(GROUPS, 0)
    assert [rank["read"] for rank in ranks] == [[3], [2]]
    for rank in ranks:
        assert rank["means"] == pytest.approx(means, abs=1e-5)


def test_each_rank_of_a_reward_knows_all_scores(ranks: list[dict[str, Any]], model: str) -> None:
    whole = reward(model)
    whole.setup(ALONE)
    values = [scores[0].value for scores in whole.score(GROUPS)]
    for rank in ranks:
        assert [scores[0].value for scores in rank["scores"]] == pytest.approx(values, abs=1e-5)


def test_the_ranks_of_a_reward_wait_for_each_other_as_long_as_the_job_says(ranks: list[dict[str, Any]]) -> None:
    assert [rank["deadline"] for rank in ranks] == [DEADLINE, DEADLINE]
