"""How the settings of an online stage reach the order of its prompts."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from rayalign.config import LoadedJob
from rayalign.coordinator.order import PriorityOrder, PromptOrder
from rayalign.pipeline.prompt_order import prompt_order
from rayalign.types import Example, Message, Prompt

Study = Callable[..., LoadedJob]
EXAMPLES = [Example(Prompt(name, (Message("user", name),)), ()) for name in "abcdef"]
RLOO = ("stages.rl.algorithm=null", "stages.rl.algorithm={name: rloo}", "stages.rl.prompts=2", "stages.rl.iterations=9")


def order_of(study: Study, *overrides: str) -> PromptOrder:
    stage: Any = study(*RLOO, *overrides).job.stages["rl"]
    context: Any = SimpleNamespace(inputs=SimpleNamespace(fitting=lambda name, model: EXAMPLES))
    return prompt_order(context, "rl", stage, 5)


def priority_order_of(study: Study, *overrides: str) -> PriorityOrder:
    order = order_of(study, *overrides)
    assert isinstance(order, PriorityOrder)
    return order


def test_without_priority_prompts_come_in_turn(study: Study) -> None:
    order = order_of(study)
    assert type(order) is PromptOrder
    assert [order[place] for place in range(12)] == [PromptOrder(EXAMPLES, 5)[place] for place in range(12)]


def test_an_iteration_by_priority_has_the_width_and_the_lag_of_the_stage(study: Study) -> None:
    order = priority_order_of(study, "stages.rl.priority={}", "stages.rl.max_staleness=1")
    assert (order._prompts, order._iterations, order._lag) == (2, 9, 1)
    wider = priority_order_of(study, "stages.rl.priority={}", "stages.rl.overlap={extra_prompts: 1}")
    assert wider._prompts == 3
    assert [order[place] for place in range(6)] == [PromptOrder(EXAMPLES, 5)[place] for place in range(6)]


REWARDS = [(1.0, 3.0), (0.0, 8.0), (1.0, 1.0), (None, None)]
"""gaps 2, 8, 0; means 2, 4, 1"""


@pytest.mark.parametrize(
    ("priority", "weights"),
    [
        ("{floor: 0}", [0.2, 0.8, 0.0, 0.0]),
        ("{}", [0.8 * 0.2 + 0.2 / 3, 0.8 * 0.8 + 0.2 / 3, 0.2 / 3, 0.0]),
        ("{metric: mean, floor: 0}", [2 / 7, 4 / 7, 1 / 7, 0.0]),
        ("{metric: mean, floor: 0, weights: min-max}", [1 / 4, 3 / 4, 0.0, 0.0]),
        ("{metric: mean, floor: 0.5, weights: min-max}", [1 / 8 + 1 / 6, 3 / 8 + 1 / 6, 1 / 6, 0.0]),
    ],
)
def test_prompts_weigh_by_metric_kind_and_floor(study: Study, priority: str, weights: list[float]) -> None:
    order = priority_order_of(study, f"stages.rl.priority={priority}")
    assert order._weigh(REWARDS) == pytest.approx(weights)
