"""Splits of prompts: a prompt's own text decides its split, so splits are disjoint for all seeds and sizes."""

from __future__ import annotations

import hashlib
import random

from rayalign.data.paddock import world
from rayalign.data.paddock.tasks import LONG, QUICK, Dialogue, Task, draw
from rayalign.data.paddock.two_turn import TWO_TURN, asked_alike, opening, split_of_opening
from rayalign.errors import InputError
from rayalign.types import Prompt

SIZES = {
    "sft": 2000, "preference": 1500, "train": 2000, "validation": 200, "test": 600,
    "entities": 300, "compositions": 300, "hard": 300, "long": 600,
}  # fmt: skip
"""split of whole prompts -> prompts where no count is given"""
_BUCKETS = {"sft": range(0, 30), "preference": range(30, 50), "train": range(50, 80), "validation": range(80, 85)}
_SHARES = {"long": LONG, "two_turn": {"clarify": 1}, "two_turn_test": {"clarify": 1}}
"""split -> share of each family, where they are not the usual ones"""
LONGEST = 24
"""tokens of a prompt as the chat template renders it"""
_PATIENCE = 3000
"""draws in a row without a new prompt after which a split counts as used up"""
_HELD_OUT = 15
"""percent of the compositions of two or more constraints that only the split `compositions` has"""


def _percent(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 100


def split_of(task: Task, dialogue: Dialogue) -> str:
    """The one split that this prompt belongs to."""
    if task.family in LONG:
        return "long"
    words = " ".join(message.content for message in dialogue).split()
    if any(word in world.UNSEEN_ENTITIES for word in words):
        return "entities"
    if task.difficulty > 2:
        return "hard"
    if task.difficulty == 2 and _percent(task.composition) < _HELD_OUT:
        return "compositions"
    percent = _percent(" / ".join(m.content for m in dialogue))
    return next((name for name, bucket in _BUCKETS.items() if percent in bucket), "test")


def _draw(rng: random.Random, split: str) -> tuple[Task, Dialogue]:
    entities = world.UNSEEN_ENTITIES if split == "entities" else world.SEEN_ENTITIES
    low, high = {"hard": (3, 4), "compositions": (2, 2), "long": (1, 1)}.get(split, (1, 2))
    task, dialogue = draw(rng, _SHARES.get(split, QUICK), entities, rng.randint(low, high))
    return task, asked_alike(dialogue) if split in TWO_TURN else dialogue


def _belongs(task: Task, dialogue: Dialogue, split: str) -> bool:
    if split in TWO_TURN:
        return split_of_opening(dialogue) == split
    return split_of(task, dialogue) == split


def prompts(seed: int, split: str, count: int | None = None) -> list[Prompt]:
    """`count` distinct prompts of a split; a longer list starts with the shorter one of the same seed.

    `meta` has `family`, `tier`, `difficulty` and `task`, from which the truth is computed. The splits `two_turn` and
    `two_turn_test` are dialogues that are still to be held: see `rayalign.data.paddock.two_turn`.
    """
    sizes = SIZES | TWO_TURN
    if split not in sizes:
        raise InputError(f"paddock has no split {split!r}; choose one of {', '.join(sizes)}")
    rng, tasks = random.Random(f"{seed}/{split}"), dict[Dialogue, Task]()
    size, misses = sizes[split] if count is None else count, 0
    while len(tasks) < size and misses < _PATIENCE:
        task, dialogue = _draw(rng, split)
        new = _belongs(task, dialogue, split) and length(dialogue) <= LONGEST and dialogue not in tasks
        misses = 0 if new else misses + 1
        if new:
            tasks[dialogue] = task
    if len(tasks) < size:
        raise InputError(f"paddock split {split!r} has fewer than {size} prompts; ask for at most {len(tasks)}")
    drawn = [prompt_of(task, dialogue) for dialogue, task in tasks.items()]
    return [opening(prompt) for prompt in drawn] if split in TWO_TURN else drawn


def length(dialogue: Dialogue) -> int:
    """Tokens of a dialogue as the chat template renders it for an answer."""
    marks = sum(2 if m.role == "assistant" else 1 for m in dialogue)
    return 2 + marks + sum(len(m.content.split()) for m in dialogue)


def prompt_of(task: Task, dialogue: Dialogue) -> Prompt:
    """The prompt of a task, with an id made from its text and the facts from which the truth is computed."""
    text = " / ".join(m.content for m in dialogue)
    meta = {"family": task.family, "tier": task.tier, "difficulty": str(task.difficulty), "task": task.to_json()}
    return Prompt(f"{task.family}-{hashlib.sha256(text.encode()).hexdigest()[:12]}", dialogue, meta)
