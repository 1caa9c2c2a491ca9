"""How the candidates of an online group come about: seeds, sampling, answers of the data set, rewards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rayalign.algorithms.base import load
from rayalign.config import TrainStage
from rayalign.coordinator.groups import GroupOrder
from rayalign.coordinator.order import Ticket
from rayalign.coordinator.rollouts import RolloutLoop, live_draws
from rayalign.coordinator.scoring import _with_rewards
from rayalign.types import Candidate, Example, Group, Message, Prompt, Score, Segment, Trajectory

EXAMPLE = Example(Prompt("p", (Message("user", "q"),)), tuple(Candidate(text) for text in "abc"))
STAGE = TrainStage.model_validate(
    {
        "kind": "train",
        "algorithm": {"name": "rrhf"},
        "model": "m",
        "sampling": {"temperature": 0.5, "max_tokens": 9},
        "candidates": [
            {"source": "live", "count": 2},
            {"source": "live", "count": 1, "sampling": {"temperature": 0.9}},
            {"source": "dataset", "count": 2},
        ],
    }
)


def order(seed: int = 0) -> GroupOrder:
    parts: dict[str, Any] = dict.fromkeys(("order", "assembler", "scoring", "journal", "events"))
    loop = RolloutLoop(settings=STAGE, seed=seed, algorithm=load(STAGE.algorithm), timeout=1.0, **parts)
    return loop._order("g", Ticket(0, 0, EXAMPLE))


def test_each_source_draws_by_its_own_sampling_over_that_of_the_stage() -> None:
    sampled = [(draw.sampling.temperature, draw.sampling.max_tokens) for draw in live_draws(STAGE)]
    assert sampled == [(0.5, 9), (0.5, 9), (0.9, 9)]
    assert order().draws == live_draws(STAGE)


def test_a_group_takes_so_many_answers_of_its_row() -> None:
    assert [answer.text for answer in order().dataset] == ["a", "b"]


def test_the_seed_decides_every_candidate() -> None:
    seeds = order(0).seeds
    assert len(set(seeds)) == 3
    assert order(0).seeds == seeds and not set(order(1).seeds) & set(seeds)


def test_what_an_environment_gave_is_added_to_the_score() -> None:
    spans = (Segment(0, "template"), Segment(1, "policy", 0))
    plain = Trajectory("g", 0, (1, 2), spans, (-1.0,), "stop", "a")
    group = Group("g", EXAMPLE.prompt, 0, (plain, replace(plain, index=1, reward=0.25)))
    scores = _with_rewards(group, (Score(2.0), Score(3.0)))
    assert [score.value for score in scores] == [2.0, 3.25]
