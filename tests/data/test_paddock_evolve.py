from __future__ import annotations

import random
from collections import Counter

import pytest

from rayalign.data.paddock import evolve as world_evolve
from rayalign.data.paddock import prompts
from rayalign.data.paddock.evolve import Frequencies, applicable, evolve, task_in
from rayalign.data.paddock.splits import prompt_of, split_of
from rayalign.data.paddock.tasks import build
from rayalign.data.paddock.understand import task_of
from rayalign.errors import InputError
from rayalign.types import Message, Prompt

FACT = prompt_of(
    build("fact", {"who": "ada", "labels": "color and food"}),
    (Message("user", "tell me the color and food of ada ."),),
)


@pytest.fixture(scope="module")
def base() -> list[Prompt]:
    return prompts(0, "train", 120)


@pytest.mark.parametrize(("operator", "rise"), [("constrain", 1), ("deepen", 1), ("breadth", 0)])
def test_the_true_difficulty_rises_as_said_and_the_words_say_the_task(
    base: list[Prompt], operator: str, rise: int
) -> None:
    pool, made = Frequencies.of(base), 0
    for prompt in base:
        child = evolve(prompt, operator, random.Random(0), pool)
        if child is None:
            continue
        made += 1
        task = task_in(child)
        assert task.difficulty - task_in(prompt).difficulty == rise
        assert int(child.meta["difficulty"]) == task.difficulty
        assert task_of(" / ".join(message.content for message in child.messages)) == task
        assert split_of(task, child.messages) in ("train", "hard")
    assert made > {"constrain": 80, "deepen": 20, "breadth": 80}[operator]


def test_a_deeper_question_asks_for_what_it_asked_and_one_more() -> None:
    child = evolve(FACT, "deepen", random.Random(3), Frequencies.of([]))
    assert child is not None
    labels = [slot.label for slot in task_in(child).slots]
    assert labels[:2] == ["color", "food"]
    assert len(set(labels)) == 3
    assert child.messages[-1].content == f"tell me the color , food and {labels[2]} of ada ."


def test_constraints_add_up_until_none_is_left() -> None:
    prompt, rng = FACT, random.Random(0)
    kinds = []
    while "constrain" in applicable(prompt):
        child = evolve(prompt, "constrain", rng, Frequencies.of([]))
        if child is None:
            break
        kinds.append(set(task_in(child).style) - set(task_in(prompt).style))
        prompt = child
    assert all(len(kind) == 1 for kind in kinds)
    assert len(kinds) >= 3


def test_rare_families_and_subjects_are_drawn_more_often() -> None:
    pool = Frequencies(
        Counter({family: 1000 for family in world_evolve.QUICK if family != "fact"}), Counter({"ada": 1000})
    )
    tasks = [task_in(child) for seed in range(50) if (child := evolve(FACT, "breadth", random.Random(seed), pool))]
    assert len(tasks) > 40
    assert {task.family for task in tasks} == {"fact"}
    assert ("ada",) not in {task.subject for task in tasks}


def test_an_operator_without_room_gives_nothing() -> None:
    count = next(prompt for prompt in prompts(0, "train", 200) if prompt.meta["family"] == "count")
    assert "deepen" not in applicable(count)
    assert evolve(count, "deepen", random.Random(0), Frequencies.of([])) is None


def test_a_prompt_of_elsewhere_is_refused() -> None:
    with pytest.raises(InputError, match="prompt x is not of the embedded world"):
        applicable(Prompt("x", (Message("user", "hello"),)))
