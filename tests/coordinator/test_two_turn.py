"""The embedded world's two-turn family from its prompts to PPO's batch; the engine's answers are written in advance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from itertools import groupby

import pytest
import torch

from rayalign.algorithms.base import load
from rayalign.config import SamplingConfig
from rayalign.coordinator.groups import GroupAssembler, GroupOrder
from rayalign.coordinator.rendering import Renderer
from rayalign.data.chat import encode_example
from rayalign.data.collate import collate_trajectories
from rayalign.data.paddock import gold, prompts
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.data.paddock.two_turn import SUBJECT
from rayalign.rollout.base import Finished, Request
from rayalign.rollout.paddock_two_turn import PaddockTwoTurn
from rayalign.rollout.scripted import ScriptedEngine, random_table
from rayalign.types import Group, Message, Prompt, Score, with_turns

ASK = "of whom ?"


class Pool:
    """The generator pool's interface around one engine; once a candidate's turn has ended, newer weights write."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine

    async def submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._engine.submit(request)

    async def finished(self) -> AsyncGenerator[Finished, None]:
        while True:
            await asyncio.sleep(0)
            for candidate in self._engine.step():
                self._engine.version += 1
                yield candidate


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(folder)
    return Renderer(str(folder), 96, SamplingConfig(max_tokens=40))


def written(renderer: Renderer, prompt: Prompt) -> Group:
    """One candidate that asks back, and one that answers at once."""
    tokenizer = renderer.tokenizer
    right = gold.oracle(prompt)
    end = [tokenizer.eos_token_id]

    def script(request: Request) -> list[int]:
        asking = request.key.endswith("/0") and len(request.prompt_ids) == len(renderer.prompt_ids(prompt))
        text = ASK if asking else right
        return [*tokenizer.encode(text, add_special_tokens=False), *end]

    engine = ScriptedEngine(random_table(len(tokenizer)), script=script)
    assembler = GroupAssembler(
        Pool(engine),  # type: ignore[arg-type]
        renderer,
        timeout=60.0,
        environment=PaddockTwoTurn,
        max_turns=4,
    )
    (result,) = asyncio.run(assembler.generate([GroupOrder("a", prompt, (1, 2))]))
    assert result.group is not None
    return result.group


def test_the_dialogue_has_the_tokens_that_the_template_gives_the_whole_of_it(renderer: Renderer) -> None:
    (prompt,) = prompts(0, "two_turn", 1)
    asked, direct = written(renderer, prompt).trajectories
    turns = (Message("assistant", ASK), Message("user", prompt.meta[SUBJECT]))
    assert (asked.turns, asked.text) == (turns, gold.oracle(prompt))
    whole, _ = encode_example(renderer.tokenizer, with_turns(prompt, turns), asked.text)
    assert asked.token_ids == whole
    assert (direct.turns, direct.text) == ((), gold.oracle(prompt))
    authors = [author for author, _ in groupby(author for author, _, _ in asked.spans)]
    assert authors == ["template", "policy", "environment", "policy"]


def test_ppo_trains_on_both_turns_and_counts_the_older_ones_staleness(renderer: Renderer) -> None:
    (prompt,) = prompts(0, "two_turn", 1)
    group = written(renderer, prompt)
    asked, direct = group.trajectories
    scored = Group(group.id, prompt, 5, group.trajectories, (Score(1.0), Score(0.5)))
    rollouts = collate_trajectories([scored], pad_id=renderer.pad_id, version=5)
    assert rollouts.behaviour_logprobs_BT is not None and rollouts.staleness_B is not None
    versions = [segment.version for segment in asked.segments if segment.author == "policy"]
    assert versions == sorted(versions) and versions[0] < versions[-1]
    assert rollouts.staleness_B.tolist() == [5 - versions[0], 5 - direct.segments[1].version]
    rollouts.logprobs_BT = rollouts.behaviour_logprobs_BT
    rollouts.values_BT = torch.zeros_like(rollouts.behaviour_logprobs_BT)
    settings = {"kl_coefficient": 0.0, "gamma": 1.0, "lam": 0.5, "whiten_advantages": False}
    batch = load({"name": "ppo", **settings}).prepare(rollouts)
    advantages_T = batch["advantages_BT"][0]
    environment_T = torch.zeros(len(advantages_T), dtype=torch.bool)
    for author, start, end in asked.spans:
        environment_T[start:end] = author == "environment"
    assert advantages_T[environment_T].tolist() == [0.0] * int(environment_T.sum())
    assert int(environment_T.sum()) > 2
    # the score 1 on the last token, halved with each policy token before it, over the gap as within a turn
    policy_T = torch.tensor(asked.policy_mask)
    count = int(policy_T.sum())
    expected = [0.5 ** (count - 1 - i) for i in range(count)]
    assert advantages_T[: len(policy_T)][policy_T].tolist() == pytest.approx(expected)
