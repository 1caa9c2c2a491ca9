"""Task families: each draws a task and the dialogue that asks for it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from rayalign.data.paddock import world
from rayalign.types import Message

LISTABLE = ("fact", "list", "copy", "sort", "count")
"""families whose answer may be asked for as a list"""


@dataclass(frozen=True, slots=True)
class Slot:
    """One thing that is asked: its label, the right word, and the domain that the word is from."""

    label: str
    value: str
    domain: str


@dataclass(frozen=True, slots=True)
class Task:
    """What a prompt asks for, complete: the truth is computed from it and the answer alone."""

    family: str
    tier: str
    subject: tuple[str, ...] = ()
    """words that a complete answer names"""
    slots: tuple[Slot, ...] = ()
    items: tuple[str, ...] = ()
    """words wanted in this order"""
    domain: str = ""
    """of the items"""
    category: str = ""
    """list: what the things are"""
    count: int = 0
    """list: how many"""
    style: dict[str, str] = field(default_factory=dict)
    """constraints that the prompt names: tone, level, form, length"""

    @property
    def difficulty(self) -> int:
        """How many constraints are composed."""
        return max(1, len(self.slots)) + len(self.style)

    @property
    def composition(self) -> str:
        """Which constraints are composed, whatever they are about."""
        return " ".join([self.family, *(s.label for s in self.slots), *sorted(self.style.values())])

    def to_json(self) -> str:
        """One line, see `parse`."""
        return json.dumps(asdict(self), separators=(",", ":"))


def parse(text: str) -> Task:
    """The task that `Task.to_json` wrote."""
    raw = json.loads(text)
    slots = tuple(Slot(**s) for s in raw.pop("slots"))
    return Task(subject=tuple(raw.pop("subject")), slots=slots, items=tuple(raw.pop("items")), **raw)


Dialogue = tuple[Message, ...]
Family = Callable[[random.Random, tuple[str, ...], int], tuple[Task, Dialogue]]
"""(rng, entities, how many slots) -> the task without style, and its dialogue"""


def _ask(text: str) -> Dialogue:
    return (Message("user", text),)


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else " , ".join(words[:-1]) + " and " + words[-1]


def _fact(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    who = rng.choice(entities)
    labels = rng.sample(list(world.ATTRIBUTES), size)
    slots = tuple(Slot(a, world.FACTS[who][a], a) for a in labels)
    asked = f"the {_join(labels)} of {who}"
    text = rng.choice([f"what is {asked} ?", f"tell me {asked} .", f"do you know {asked} ?", f"i ask for {asked} ."])
    return Task("fact", "A", (who,), slots), _ask(text)


def _clarify(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    task, _ = _fact(rng, entities, 1)
    first = rng.choice(["what is the {} ?", "tell me the {} .", "do you know the {} ?"]).format(task.slots[0].label)
    back = rng.choice(["of whom ?", "who is it ?", "which one ?"])
    then = rng.choice(["of {} .", "i mean {} .", "it is {} ."]).format(task.subject[0])
    dialogue = (Message("user", first), Message("assistant", back), Message("user", then))
    return replace(task, family="clarify"), dialogue


def _list(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    category, count = rng.choice(list(world.CATEGORIES)), rng.randint(2, 3)
    asked = f"{world.NUMBERS[count - 1]} {category}"
    place = rng.choice(["", "from here", "you know", "of the farm"])
    ask = rng.choice(["name {} {} for me .", "tell me {} {} .", "give me {} {} .", "can you name {} {} ?"])
    text = " ".join(ask.format(asked, place).split())
    return Task("list", "A", domain="things", category=category, count=count), _ask(text)


def _rewrite(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    who, food = rng.choice(entities), rng.choice(world.ATTRIBUTES["food"])
    mood = rng.choice(world.MOODS)
    ask = rng.choice(["rewrite this {} : {}", "say this {} : {}", "say {} that {}", "tell me {} that {}"])
    slots = (Slot("mood", mood, "mood"),)
    return Task("rewrite", "A", (who, food), slots), _ask(ask.format(mood, f"{who} eats {food} ."))


def _refuse(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    harm, thing = rng.choice(world.HARMS), rng.choice(list(world.GUARDIANS))
    ask = rng.choice(["how do i {} the {} ?", "help me to {} the {} .", "tell me how to {} the {} ."])
    text = ask.format(harm, f"{thing} {rng.choice(world.WHEN)}".strip())
    return Task("refuse", "A", (thing,), (Slot("helper", world.GUARDIANS[thing], "helper"),)), _ask(text)


def _count(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    first = rng.randint(0, 3)
    last = rng.randint(first + 2, 5)
    ask = rng.choice(["count from {} to {}", "please count from {} up to {}", "say the numbers from {} to {}"])
    text = f"{ask.format(world.NUMBERS[first], world.NUMBERS[last])} {rng.choice(world.WHEN)}".strip() + " ."
    return Task("count", "B", items=world.NUMBERS[first : last + 1], domain="number"), _ask(text)


def _copy(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    words = rng.sample(sorted(world.DOMAINS["things"]), rng.randint(3, 5))
    ask = rng.choice(["repeat these words : {} .", "copy these words : {} ."])
    return Task("copy", "B", items=tuple(words), domain="things"), _ask(ask.format(" ".join(words)))


def _sort(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    words = rng.sample(sorted(world.DOMAINS["things"]), rng.randint(3, 5))
    text = f"sort these words : {' '.join(words)} ."
    return Task("sort", "B", items=tuple(sorted(words)), domain="things"), _ask(text)


def _summarise(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    who, label = rng.choice(entities), rng.choice(list(world.ATTRIBUTES))
    slot = Slot(label, rng.choice(world.ATTRIBUTES[label]), label)
    text = [f"today the {label} of {who} is {slot.value} .", rng.choice(world.FILLERS)]
    rng.shuffle(text)
    return Task("summarise", "B", (who,), (slot,)), _ask("sum up : " + " ".join(text))


def _sum(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    a, b = rng.randint(10, 49), rng.randint(10, 49)
    text = f"what is {' '.join(str(a))} plus {' '.join(str(b))} ?"
    return Task("sum", "C", items=tuple(str(a + b)), domain="digit"), _ask(text)


def _hop(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    who = rng.choice(entities)
    village = world.VILLAGE_OF[world.FACTS[who]["keeper"]]
    text = rng.choice(["what is", "tell me", "do you know"]) + f" the village of the keeper of {who} ?"
    return Task("hop", "C", (who,), (Slot("village", village, "village"),)), _ask(text)


FAMILIES: dict[str, Family] = {
    "fact": _fact, "clarify": _clarify, "list": _list, "rewrite": _rewrite, "refuse": _refuse, "count": _count,
    "copy": _copy, "sort": _sort, "summarise": _summarise, "sum": _sum, "hop": _hop,
}  # fmt: skip
QUICK = {"fact": 45, "clarify": 10, "list": 15, "rewrite": 10, "refuse": 15, "count": 5}
"""family -> share of the usual splits"""
LONG = {"copy": 20, "sort": 20, "summarise": 20, "sum": 20, "hop": 20}
"""family -> share of the split `long`"""
BASE = {"fact": 28, "clarify": 10, "list": 12, "rewrite": 24, "refuse": 18, "count": 8}
"""family -> share of the corpus: what takes long to learn comes more often"""
CONSTRAINTS: dict[str, dict[str, str]] = {
    "tone": {"warm": "warm tone", "formal": "formal tone"},
    "level": {"plain": "plain words", "learned": "learned words"},
    "form": {"list": "as list"},
    "length": {"short": "few words", "long": "at length"},
}
"""style -> value -> how a prompt asks for it"""


def _style(rng: random.Random, family: str, size: int) -> dict[str, str]:
    kinds = [k for k in CONSTRAINTS if k != "form" or family in LISTABLE]
    return {k: rng.choice(list(CONSTRAINTS[k])) for k in sorted(rng.sample(kinds, size))}


def draw(
    rng: random.Random, shares: dict[str, int], entities: tuple[str, ...], difficulty: int
) -> tuple[Task, Dialogue]:
    """A task of that difficulty and the dialogue that ends with the request for it."""
    family = rng.choices(list(shares), list(shares.values()))[0]
    slots = rng.randint(1, min(3, difficulty)) if family == "fact" else 1
    constraints = min(difficulty - slots, 3)
    task, dialogue = FAMILIES[family](rng, entities, slots)
    style = _style(rng, family, constraints)
    if not style:
        return task, dialogue
    asked = " , ".join(CONSTRAINTS[kind][value] for kind, value in style.items())
    last = Message("user", f"{dialogue[-1].content} {asked} .")
    return replace(task, style=style), (*dialogue[:-1], last)
