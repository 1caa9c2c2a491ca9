from __future__ import annotations

from rayalign.coordinator.order import PromptOrder
from rayalign.types import Example, Message, Prompt

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
