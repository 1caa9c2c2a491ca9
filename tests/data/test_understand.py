from __future__ import annotations

import hashlib
import random

import pytest

from rayalign.data.paddock import SIZES, prompts, tasks
from rayalign.data.paddock.understand import task_of
from rayalign.data.paddock.world import ENTITIES, WISHES
from rayalign.types import Prompt

EVERY = dict.fromkeys(tasks.FAMILIES, 1)


@pytest.fixture(scope="module")
def world() -> list[Prompt]:
    return [p for seed in (0, 1) for name, size in SIZES.items() for p in prompts(seed, name, min(size, 300))]


def test_the_world_is_the_same_as_ever(world: list[Prompt]) -> None:
    """A digest of 5,200 prompts: pairs, verdicts and models made before must stay comparable."""
    rows = [repr((p.id, p.messages, sorted(p.meta.items()))) for p in world]
    expected = "b6064b0ac6bd1f88155e010ddd31d9cc7920af7cb9d7bdea30586cf2c8fea098"
    assert hashlib.sha256("".join(rows).encode()).hexdigest() == expected


def test_prompts_of_every_split_are_understood(world: list[Prompt]) -> None:
    for prompt in world:
        wanted = tasks.parse(prompt.meta["task"])
        assert task_of("\n\n".join(m.content for m in prompt.messages)) == wanted
        assert task_of(" / ".join(m.content for m in prompt.messages)) == wanted
        assert task_of("\n\n".join(f"{m.role}: {m.content}" for m in prompt.messages)) == wanted


def test_every_family_with_every_constraint_is_understood() -> None:
    rng = random.Random(5)
    seen: set[tuple[str, str, str]] = set()
    for _ in range(4000):
        task, dialogue = tasks.draw(rng, EVERY, ENTITIES, rng.randint(1, 5))
        assert task_of("\n\n".join(m.content for m in dialogue)) == task
        seen |= {(task.family, kind, value) for kind, value in task.style.items()}
    plain = sum(len(v) for k, v in tasks.CONSTRAINTS.items() if k != "form") * len(EVERY)
    assert len(seen) == plain + len(tasks.LISTABLE)


def test_system_messages_are_passed_over() -> None:
    asked = "tell me the color of ada ."
    assert task_of(f"{WISHES['polite']}\n\n{asked}") == task_of(f"system: obey .\n\nuser: {asked}") == task_of(asked)
    assert task_of(asked) is not None


@pytest.mark.parametrize(
    "text",
    [
        "", "\n\n", "what is the capital of france ?", "tell me the color of nobody .", "tell me the of ada .",
        "tell me the color of ada . now", "what is the color ?", "what is the color ?\n\nof whom ?\n\nwho ?",
        "of ada .", "count from six to two .", "tell me the color of ada . warm tone , formal tone .",
        "what is 1 2 plus 3 4 ? as list .",
    ],
)  # fmt: skip
def test_other_text_is_none_of_the_world_s(text: str) -> None:
    assert task_of(text) is None
