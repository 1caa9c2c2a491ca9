from __future__ import annotations

import random

from rayalign.data.paddock import gold, prompts, tasks
from rayalign.data.paddock.two_turn import SUBJECT, TWO_TURN, asks_back
from rayalign.data.paddock.understand import task_of
from rayalign.data.paddock.world import ENTITIES


def test_a_prompt_opens_with_the_question_and_keeps_its_subject_back() -> None:
    for prompt in prompts(0, "two_turn", 60):
        (question,) = prompt.messages
        assert question.role == "user"
        assert not set(question.content.split()) & set(ENTITIES)
        task = tasks.parse(prompt.meta["task"])
        assert task.subject[0] in prompt.meta[SUBJECT].split()
        # the whole dialogue is one of the family
        assert task_of(f"{question.content} / of whom ? / {prompt.meta[SUBJECT]}") == task


def test_the_same_question_about_different_subjects_is_several_prompts() -> None:
    rows = {name: prompts(0, name) for name in TWO_TURN}
    ids = [prompt.id for drawn in rows.values() for prompt in drawn]
    assert len(set(ids)) == len(ids) == sum(TWO_TURN.values())
    assert len({prompt.messages for prompt in rows["two_turn"]}) < len(rows["two_turn"]) / 10
    assert rows["two_turn"][:30] == prompts(0, "two_turn", 30)


def test_an_answer_without_the_subject_is_worth_less_than_one_with_it() -> None:
    worse = 0
    for prompt in prompts(0, "two_turn", 30):
        task = tasks.parse(prompt.meta["task"])
        answer = gold.oracle(prompt)
        blind = " ".join(word for word in answer.split() if word not in (*task.subject, task.slots[0].value))
        worse += gold.utility(prompt, blind) < gold.utility(prompt, answer)
    assert worse == 30


def test_asking_back_is_told_from_answering() -> None:
    assert all(asks_back(text) for text in tasks.CLARIFY[1])
    assert asks_back(" of  whom ? ")
    rng = random.Random(0)
    for _ in range(20):
        task, _ = tasks.FAMILIES["clarify"](rng, ENTITIES, 1)
        assert not asks_back(f"the {task.slots[0].label} is {task.slots[0].value} .")
