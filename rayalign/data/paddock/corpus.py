"""Unlabelled text: true statements, lists, and dialogues of mixed quality."""

from __future__ import annotations

import random

from rayalign.data.paddock import world
from rayalign.data.paddock.compose import compose
from rayalign.data.paddock.demonstrations import RATES, draw_attributes
from rayalign.data.paddock.splits import split_of
from rayalign.data.paddock.tasks import BASE, LONG, Dialogue, Task, draw
from rayalign.types import Message

BASE_RATES = {**RATES, "complete": 1.0, "correct": 0.95, "brief": 0.75, "polite": 0.4, "tone": 0.5, "form": 0.75}
"""the base is more often correct than the demonstrations, and less often polite"""
_WISH_GAIN = 0.15
"""increase of the rate of an attribute by the system message that requests it"""


def corpus(seed: int, count: int, *, tier_c: bool = False) -> list[str]:
    """`count` documents, each from `<bos>` to `<eos>`; dialogues look as the chat template renders them.

    No document holds a prompt of another split than `sft` and `train`. `tier_c` adds the tasks of long studies.
    """
    rng = random.Random(f"{seed}/corpus")
    return [f"<bos>{_document(rng, tier_c)}<eos>" for _ in range(count)]


def _document(rng: random.Random, tier_c: bool) -> str:
    kind = rng.choices(["profile", "dialogue", "guardian"], [30, 66, 4])[0]
    if kind == "profile":
        return _profile(rng, tier_c)
    return _dialogue(rng, tier_c) if kind == "dialogue" else _guardian(rng)


def _profile(rng: random.Random, tier_c: bool) -> str:
    who = rng.choice(world.ENTITIES)
    facts = rng.sample(sorted(world.FACTS[who].items()), 3)
    if tier_c:
        keeper = rng.choice(world.ATTRIBUTES["keeper"])
        return f"the village of {keeper} is {world.VILLAGE_OF[keeper]} . " + _tell(rng, who, facts)
    return _tell(rng, who, facts)


def _tell(rng: random.Random, who: str, facts: list[tuple[str, str]]) -> str:
    if rng.random() < 0.3:
        return f"about {who} : " + " ".join(f"* {a} {v}" for a, v in facts) + " ."
    return " ".join(f"the {a} of {who} is {v} ." for a, v in facts)


def _guardian(rng: random.Random) -> str:
    thing, helper = rng.choice(list(world.GUARDIANS.items()))
    return f"for the {thing} , ask the {helper} ."


def _public(rng: random.Random, tier_c: bool) -> tuple[Task, Dialogue]:
    """A task whose prompt is not held out."""
    while True:
        shares = LONG if tier_c and rng.random() < 0.4 else BASE
        task, dialogue = draw(rng, shares, world.SEEN_ENTITIES, rng.choice((1, 2, 2, 2)))
        if split_of(task, dialogue) in ("sft", "train", "long"):
            return task, dialogue


def _dialogue(rng: random.Random, tier_c: bool) -> str:
    task, dialogue = _public(rng, tier_c)
    rates = dict(BASE_RATES)
    if rng.random() < 0.15:
        wish = rng.choice(list(world.WISHES))
        rates[wish] += _WISH_GAIN
        dialogue = (Message("system", world.WISHES[wish]), *dialogue)
    turns = [f"<{m.role}>{m.content}" + ("<eos>" if m.role == "assistant" else "") for m in dialogue]
    return "".join(turns) + "<assistant>" + compose(task, draw_attributes(rng, rates), rng)
