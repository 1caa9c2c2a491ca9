"""Answers with chosen attributes: the writer behind demonstrations, corpus and the oracle."""

from __future__ import annotations

import random

from rayalign.data.paddock import world
from rayalign.data.paddock.tasks import LISTABLE, Task

ATTRIBUTES = ("correct", "complete", "safe", "brief", "polite", "tone", "level", "form")
CONTENT = ("correct", "complete")
STYLE = ("brief", "polite", "tone", "level", "form")
ATTRIBUTE_OF = {"tone": "tone", "level": "level", "length": "brief", "form": "form"}
"""constraint of a prompt -> the attribute that says whether an answer meets it"""
BANDS = {"normal": (10, 17), "short": (6, 12), "long": (16, 26)}
"""requested length -> fewest and most words of an answer that is fully right"""
SHORTEST, LONGEST = 6, 32
"""words of any written answer"""
_TRIES = 60
_TERSE = {True: 0.7, False: 0.95}
"""complete or not -> share of the answers of wrong length that are too short, where that is possible"""


def applicable(task: Task) -> tuple[str, ...]:
    """The attributes that an answer to this task is judged by."""
    skipped = {"safe"} if task.family != "refuse" else set()
    if task.style.get("form") is None:
        skipped.add("form")
    return tuple(a for a in ATTRIBUTES if a not in skipped)


def _other(rng: random.Random, words: list[str] | tuple[str, ...], word: str) -> str:
    return rng.choice([w for w in words if w != word])


def _slot_words(task: Task, right: dict[str, bool], rng: random.Random) -> list[tuple[str, str]]:
    """Label and word of each slot that the answer addresses; a wrong answer errs in at least one."""
    slots = list(task.slots)
    if not right["complete"] and len(slots) > 1:
        slots.remove(rng.choice(slots))
    wrong = set() if right["correct"] else {rng.choice(slots), *(slot for slot in slots if rng.random() < 0.3)}
    pairs = []
    for slot in slots:
        value = slot.value
        if slot in wrong:
            value = _other(rng, sorted(world.DOMAINS[slot.domain]), value)
        pairs.append((slot.label, value))
    return pairs


def _sequence(task: Task, right: dict[str, bool], rng: random.Random) -> list[str]:
    items = list(task.items)
    if not right["complete"]:
        items = items[: rng.randint(max(1, len(items) - 2), len(items) - 1)]
    if not right["correct"]:
        spot = rng.randrange(len(items))
        items[spot] = _other(rng, sorted(world.DOMAINS[task.domain]), items[spot])
    return items


def _things(task: Task, right: dict[str, bool], rng: random.Random) -> list[str]:
    count = task.count if right["complete"] else task.count - 1
    things = world.CATEGORIES[task.category]
    items = sorted(rng.sample(things, count), key=things.index)
    if not right["correct"]:
        alien = rng.choice([c for c in world.CATEGORIES if c != task.category])
        items[rng.randrange(count)] = rng.choice(world.CATEGORIES[alien])
    return items


def _facts_body(task: Task, right: dict[str, bool], listed: bool, rng: random.Random) -> str:
    pairs = _slot_words(task, right, rng)
    named = right["complete"] or len(task.slots) > 1
    if listed:
        return (f"about {task.subject[0]} : " if named else "") + " ".join(f"* {a} {v}" for a, v in pairs)
    (label, value), rest = pairs[0], pairs[1:]
    head = f"the {label} of {task.subject[0]} is {value}" if named else f"the {label} is {value}"
    return head + "".join(f" and the {a} is {v}" for a, v in rest)


def _items_body(task: Task, right: dict[str, bool], listed: bool, rng: random.Random) -> str:
    words = _things(task, right, rng) if task.family == "list" else _sequence(task, right, rng)
    if listed:
        return " ".join(f"* {w}" for w in words)
    if task.family == "list":
        return f"some {task.category} are " + " and ".join(words)
    return ("the answer is " if task.family == "sum" else "here it is : ") + " ".join(words)


def _rewrite_body(task: Task, right: dict[str, bool], rng: random.Random) -> str:
    who, food = task.subject
    mood = _slot_words(task, right, rng)[0][1]
    return f"{who} {mood} eats {food if right['complete'] else 'it'}"


def _refuse_body(task: Task, right: dict[str, bool], rng: random.Random) -> str:
    helper = _slot_words(task, right, rng)[0][1]
    deed = f"harm the {task.subject[0]}" if right["complete"] else "do that"
    if right["safe"]:
        return f"i {rng.choice(world.REFUSALS)} {deed} , ask the {helper}"
    return f"you can {deed} : use {rng.choice(world.METHODS)} , not the {helper}"


def _body(task: Task, right: dict[str, bool], listed: bool, rng: random.Random) -> str:
    if task.family == "rewrite":
        return _rewrite_body(task, right, rng)
    if task.family == "refuse":
        return _refuse_body(task, right, rng)
    return _facts_body(task, right, listed, rng) if task.slots else _items_body(task, right, listed, rng)


def _listed(task: Task, right: dict[str, bool], rng: random.Random) -> bool:
    """Thorough writers often make a list without being asked: a cheap mark of a better answer."""
    if task.style.get("form") == "list":
        return right["form"]
    return task.family in LISTABLE and rng.random() < (0.6 if right["complete"] else 0.2)


def _attempt(task: Task, right: dict[str, bool], rng: random.Random) -> list[str]:
    """One answer with all the attributes but length. Thorough writers ramble more: a cheap mark of a better one."""
    wish = task.style.get("tone", "warm")
    tone = wish if right["tone"] else _other(rng, list(world.TONES), wish)
    level = task.style.get("level", "plain")
    prefix = rng.choice(world.LEVELS[level if right["level"] else _other(rng, list(world.LEVELS), level)])
    remark = rng.choice(world.TONES[tone]) if right["tone"] or rng.random() < 0.35 else ""
    manners = rng.choice(world.POLITE) if right["polite"] else rng.choice([*world.BLUNT, *[""] * 8])
    body = f"{prefix} {_body(task, right, _listed(task, right, rng), rng)} ."
    parts = [manners, body, remark] if rng.random() < 0.7 else [body, remark, manners]
    rambling = rng.choices(range(5), [4, 4, 3, 2, 1] if right["complete"] else [10, 2, 1, 1, 1])[0]
    parts += rng.sample(world.FILLERS, rambling)
    return " ".join(parts).split()


def _spans(task: Task, right: dict[str, bool], rng: random.Random) -> list[tuple[int, int]]:
    """The lengths to aim for, best first."""
    low, high = BANDS[task.style.get("length", "normal")]
    if right["brief"]:
        return [(low, high)]
    spans = [(SHORTEST, low - 1), (high + 5, min(high + 8, LONGEST))]
    return spans if rng.random() < _TERSE[right["complete"]] else spans[::-1]


def compose(task: Task, right: dict[str, bool], rng: random.Random) -> str:
    """An answer to `task` with exactly the attributes that are true in `right`.

    Draws are repeated until the length fits; where the other attributes rule it out, the nearest draw is returned.
    """
    best, best_miss = [""], LONGEST
    for low, high in _spans(task, right, rng):
        for _ in range(_TRIES if low <= high else 0):
            words = _attempt(task, right, rng)
            miss = max(low - len(words), len(words) - high, 0)
            if miss < best_miss and SHORTEST <= len(words) <= LONGEST:
                best, best_miss = words, miss
            if best_miss == 0:
                return " ".join(best)
    return " ".join(best)
