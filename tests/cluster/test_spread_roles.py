"""A reference and a reward in parts on two real actors give the numbers of whole ones."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from rayalign.actors.hosted import FrozenSpec
from rayalign.actors.learner import LearnerSpec
from rayalign.actors.store import keep, rank_rows
from rayalign.cluster.replicas import Replicas
from rayalign.cluster.roles import Specs, start_roles
from rayalign.config import ClusterConfig, LearnerConfig, RewardSource, RoleConfig
from rayalign.data.collate import collate_trajectories
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.errors import LostError
from rayalign.models.load import Frozen, make_preset
from rayalign.scoring.sources import RewardSpec
from rayalign.storage.events import EventLog
from tests.actors.spread_ranks import GROUPS

pytestmark = pytest.mark.ray
CLUSTER = ClusterConfig(start_timeout=280.0, call_timeout=280.0, heartbeat_timeout=8.0)
CONFIG = LearnerConfig(micro_tokens=32, zero_live_parameters=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    make_preset("nano", build_tokenizer(), 0, folder)
    return str(folder)


@pytest.fixture
def specs(model: str) -> Specs:
    reward = RewardSpec((RewardSource(source=model),), CONFIG, model, 60.0)
    return {"reference": FrozenSpec(model, CONFIG, 1.0, model, 60.0), "reward": reward}


async def read(specs: Specs, host: RoleConfig, events: EventLog) -> tuple[torch.Tensor, list[Any], list[float]]:
    """Log-probs of all rows, scores of all groups, and mean log-probs."""
    rollouts = collate_trajectories(GROUPS, pad_id=0, version=0)
    async with await start_roles(specs, {"reference": host, "reward": host}, CLUSTER, events) as roles:
        handle = keep(rollouts)
        shares = await roles["reference"].all(lambda actor: actor.evaluate.remote(handle))
        logprobs_BT = torch.cat([ray.get(share[0], timeout=60).logprobs_BT for share in shares])
        scores = await Replicas(roles["reward"]).ask(0, lambda actor: actor.score.remote(GROUPS))
        means = await Replicas(roles["reference"]).ask(0, lambda actor: actor.mean_logprobs.remote(GROUPS, 0))
        return logprobs_BT, [group_scores[0].value for group_scores in scores], means


@pytest.mark.timeout(600)
def test_their_numbers_are_those_of_whole_models(ray_session: None, specs: Specs, events: EventLog) -> None:
    host = RoleConfig(actors=2, cpus=0.1)
    whole = asyncio.run(read(specs, host, events))
    spread = asyncio.run(read(specs, host.model_copy(update={"spread": True}), events))
    torch.testing.assert_close(spread[0], whole[0], atol=1e-5, rtol=0)
    assert spread[1] == pytest.approx(whole[1], abs=1e-5)
    assert spread[2] == pytest.approx(whole[2], abs=1e-5)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", [0, 3])
def test_the_ranks_of_a_policy_read_a_reference_of_its_own(
    ray_session: None, model: str, events: EventLog, tmp_path: Path, stage: int
) -> None:
    make_preset("nano", build_tokenizer(), 1, tmp_path)
    config = CONFIG.model_copy(update={"zero_stage": stage})
    algorithm = {"name": "grpo"}
    spec = LearnerSpec(model, config, algorithm, 0.7, total_steps=1, seed=0, timeout=60.0, reference=str(tmp_path))

    async def work() -> torch.Tensor:
        host = RoleConfig(actors=2, cpus=0.1)
        async with await start_roles({"policy": spec}, {"policy": host}, CLUSTER, events) as roles:
            handle = keep(collate_trajectories(GROUPS, pad_id=0, version=0))
            shares = await roles["policy"].all(lambda actor: actor.evaluate_reference.remote(handle))
            return torch.cat([ray.get(share[0], timeout=60).logprobs_BT for share in shares])

    rows = rank_rows(collate_trajectories(GROUPS, pad_id=0, version=0), 0, 1)
    expected_BT = Frozen(str(tmp_path), "causal", CONFIG, temperature=0.7).evaluate(rows).logprobs_BT
    torch.testing.assert_close(asyncio.run(work()), expected_BT, atol=1e-5, rtol=0)


@pytest.mark.timeout(600)
def test_a_lost_rank_is_not_replaced_by_itself(ray_session: None, specs: Specs, events: EventLog) -> None:
    async def work() -> None:
        host = RoleConfig(actors=2, cpus=0.1, spread=True)
        async with await start_roles({"reward": specs["reward"]}, {"reward": host}, CLUSTER, events) as roles:
            os.kill(roles["reward"].pid(roles["reward"].actors[1]), signal.SIGKILL)
            await Replicas(roles["reward"]).ask(0, lambda actor: actor.score.remote(GROUPS))

    with pytest.raises(LostError, match=r"reward rank 1 .*died"):
        asyncio.run(work())
