from __future__ import annotations

from collections.abc import Sequence

import pytest

from rayalign.config import PriorityConfig
from rayalign.coordinator.order import PriorityOrder, PromptOrder, Rewards
from rayalign.evolve.creator import priority_weights
from rayalign.types import Example, Group, Message, Prompt, Score

EXAMPLES = [Example(Prompt(str(i), (Message("user", str(i)),)), ()) for i in range(7)]


def ids(order: PromptOrder, start: int, stop: int) -> list[str]:
    return [order[i].prompt.id for i in range(start, stop)]


def test_each_epoch_holds_every_prompt_once_in_its_own_order() -> None:
    order = PromptOrder(EXAMPLES, seed=3)
    first, second = ids(order, 0, 7), ids(order, 7, 14)
    assert sorted(first) == sorted(second) == [str(i) for i in range(7)]
    assert first != second


def test_any_position_can_be_asked_for_first() -> None:
    order = PromptOrder(EXAMPLES, seed=3)
    whole = ids(order, 0, 21)
    assert [PromptOrder(EXAMPLES, seed=3)[i].prompt.id for i in range(21)] == whole
    assert order[2].prompt.id == whole[2]  # back in an epoch that was left


def test_the_seed_decides() -> None:
    assert ids(PromptOrder(EXAMPLES, seed=1), 0, 14) != ids(PromptOrder(EXAMPLES, seed=2), 0, 14)


PROMPTS, ITERATIONS = 2, 20


def gaps(rewards: Sequence[Rewards]) -> list[float]:
    return priority_weights(PriorityConfig(floor=0.0), rewards)


def order(*, staleness: int = 0, seed: int = 0) -> PriorityOrder:
    return PriorityOrder(EXAMPLES, seed, prompts=PROMPTS, iterations=ITERATIONS, max_staleness=staleness, weigh=gaps)


def group(example: Example, *scores: float | None) -> Group:
    return Group("g", example.prompt, 0, (), tuple(Score(score) for score in scores))


def test_each_prompt_comes_once_before_any_is_weighed() -> None:
    count = len(EXAMPLES)
    assert ids(order(), 0, count) == ids(PromptOrder(EXAMPLES, 0), 0, count)


def test_an_iteration_takes_what_taught_and_the_rest_after_it() -> None:
    prompts = order()
    for iteration, example in enumerate(EXAMPLES):
        best = {0: 5.0, 1: 3.0}.get(iteration, 0.0)
        prompts.observe(iteration, [group(example, best, 0.0, None)])
    first = PROMPTS * len(EXAMPLES)
    taught = {EXAMPLES[0].prompt.id, EXAMPLES[1].prompt.id}
    assert set(ids(prompts, first, first + PROMPTS)) == taught
    instead = prompts[first + PROMPTS * ITERATIONS].prompt.id  # for a place whose prompt failed
    assert instead not in taught


@pytest.mark.parametrize("seed", range(10))
def test_an_iteration_that_begins_as_shuffled_takes_no_prompt_twice(seed: int) -> None:
    prompts = order(seed=seed)
    prompts.observe(0, [group(EXAMPLES[0], 5.0, 0.0)])
    last = len(EXAMPLES) // PROMPTS  # 7 prompts, two an iteration: one is shuffled, the other weighed
    own = ids(prompts, last * PROMPTS, (last + 1) * PROMPTS)
    instead = [prompts[PROMPTS * ITERATIONS * attempt + last * PROMPTS].prompt.id for attempt in (1, 2)]
    assert len({*own, *instead}) == 4


def test_later_rewards_take_the_place_of_earlier_ones_but_only_those_that_were_published() -> None:
    sharp, dull = EXAMPLES[0], EXAMPLES[1]
    for staleness, chosen in ((0, dull), (1, sharp)):
        prompts = order(staleness=staleness)
        prompts.observe(8, [group(sharp, 1.0, 0.0), group(dull, 0.0, 0.0)])
        prompts.observe(9, [group(sharp, 0.0, 0.0), group(dull, 1.0, 0.0)])
        assert prompts[10 * PROMPTS].prompt == chosen.prompt


def test_a_resumed_order_goes_on_and_seeds_differ() -> None:
    def drawn(seed: int) -> list[str]:
        prompts = order(seed=seed)
        for iteration, example in enumerate(EXAMPLES):
            prompts.observe(iteration, [group(example, 1.0 + iteration, 0.0)])
        return ids(prompts, PROMPTS * len(EXAMPLES), PROMPTS * ITERATIONS)

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize("scores", [(), (None, None)])
def test_without_any_reward_all_prompts_are_alike(scores: tuple[None, ...]) -> None:
    prompts = order()
    prompts.observe(0, [group(EXAMPLES[0], *scores)])
    start = 10 * PROMPTS
    assert len({prompts[start + place].prompt.id for place in range(PROMPTS)}) == PROMPTS
