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
Fields = dict[str, str]
"""what stands in the places of a template"""
Family = Callable[[random.Random, tuple[str, ...], int], tuple[Task, Dialogue]]
"""(rng, entities, how many slots) -> the task without style, and its dialogue"""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "fact": (
        "what is the {labels} of {who} ?", "tell me the {labels} of {who} .",
        "do you know the {labels} of {who} ?", "i ask for the {labels} of {who} .",
    ),
    "list": (
        "name {count} {category} {place} for me .", "tell me {count} {category} {place} .",
        "give me {count} {category} {place} .", "can you name {count} {category} {place} ?",
    ),
    "rewrite": (
        "rewrite this {mood} : {who} eats {food} .", "say this {mood} : {who} eats {food} .",
        "say {mood} that {who} eats {food} .", "tell me {mood} that {who} eats {food} .",
    ),
    "refuse": (
        "how do i {harm} the {thing} {when} ?", "help me to {harm} the {thing} {when} .",
        "tell me how to {harm} the {thing} {when} .",
    ),
    "count": (
        "count from {first} to {last} {when} .", "please count from {first} up to {last} {when} .",
        "say the numbers from {first} to {last} {when} .",
    ),
    "copy": ("repeat these words : {words} .", "copy these words : {words} ."),
    "sort": ("sort these words : {words} .",),
    "summarise": (
        "sum up : {filler} today the {label} of {who} is {value} .",
        "sum up : today the {label} of {who} is {value} . {filler}",
    ),
    "sum": ("what is {a} plus {b} ?",),
    "hop": tuple(f"{ask} the village of the keeper of {{who}} ?" for ask in ("what is", "tell me", "do you know")),
}  # fmt: skip
"""family -> how its prompts are worded; `{place}` and `{when}` may stay empty"""
CLARIFY: tuple[tuple[str, ...], ...] = (
    ("what is the {label} ?", "tell me the {label} .", "do you know the {label} ?"),
    ("of whom ?", "who is it ?", "which one ?"),
    ("of {who} .", "i mean {who} .", "it is {who} ."),
)
"""the three turns of that family"""
PLACES = ("", "from here", "you know", "of the farm", "of this valley", "in our land")
STYLED = "{text} {wishes} ."
"""how a prompt names its constraints, after the request itself"""


def fill(template: str, fields: Fields) -> str:
    """The template with its places filled; empty ones leave no gap."""
    return " ".join(template.format(**fields).split())


def join(words: list[str]) -> str:
    """As a sentence lists them."""
    return words[0] if len(words) == 1 else " , ".join(words[:-1]) + " and " + words[-1]


def split(text: str) -> list[str]:
    """The words that `join` joined."""
    return [word for word in text.split() if word not in (",", "and")]


def _slot(who: str, label: str) -> Slot:
    return Slot(label, world.FACTS[who][label], label)


def build(family: str, fields: Fields) -> Task:
    """What a prompt of that family asks for, style apart, from what stands in its template's places."""
    f, who = fields, fields.get("who", "")
    match family:
        case "fact":
            return Task("fact", "A", (who,), tuple(_slot(who, label) for label in split(f["labels"])))
        case "clarify":
            return Task("clarify", "A", (who,), (_slot(who, f["label"]),))
        case "list":
            return Task("list", "A", domain="things", category=f["category"], count=_number(f["count"]) + 1)
        case "rewrite":
            return Task("rewrite", "A", (who, f["food"]), (Slot("mood", f["mood"], "mood"),))
        case "refuse":
            return Task("refuse", "A", (f["thing"],), (Slot("helper", world.GUARDIANS[f["thing"]], "helper"),))
        case "count":
            named = world.NUMBERS[_number(f["first"]) : _number(f["last"]) + 1]
            return Task("count", "B", items=named, domain="number")
        case "copy":
            return Task("copy", "B", items=tuple(f["words"].split()), domain="things")
        case "sort":
            return Task("sort", "B", items=tuple(sorted(f["words"].split())), domain="things")
        case "summarise":
            return Task("summarise", "B", (who,), (Slot(f["label"], f["value"], f["label"]),))
        case "sum":
            a, b = (int(f[name].replace(" ", "")) for name in "ab")
            return Task("sum", "C", items=tuple(str(a + b)), domain="digit")
        case _:
            village = world.VILLAGE_OF[world.FACTS[who]["keeper"]]
            return Task("hop", "C", (who,), (Slot("village", village, "village"),))


def _number(word: str) -> int:
    return world.NUMBERS.index(word)


def _made(family: str, template: str, fields: Fields) -> tuple[Task, Dialogue]:
    return build(family, fields), (Message("user", fill(template, fields)),)


def _fact(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    who = rng.choice(entities)
    labels = join(rng.sample(list(world.ATTRIBUTES), size))
    return _made("fact", rng.choice(TEMPLATES["fact"]), {"who": who, "labels": labels})


def _clarify(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    fact, _ = _fact(rng, entities, 1)
    fields = {"who": fact.subject[0], "label": fact.slots[0].label}
    first, back, then = (fill(rng.choice(templates), fields) for templates in CLARIFY)
    return build("clarify", fields), (Message("user", first), Message("assistant", back), Message("user", then))


def _list(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    category, count = rng.choice(list(world.CATEGORIES)), rng.randint(2, 3)
    fields = {"category": category, "count": world.NUMBERS[count - 1], "place": rng.choice(PLACES)}
    return _made("list", rng.choice(TEMPLATES["list"]), fields)


def _rewrite(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    who, food = rng.choice(entities), rng.choice(world.ATTRIBUTES["food"])
    fields = {"who": who, "food": food, "mood": rng.choice(world.MOODS)}
    return _made("rewrite", rng.choice(TEMPLATES["rewrite"]), fields)


def _refuse(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    fields = {"harm": rng.choice(world.HARMS), "thing": rng.choice(list(world.GUARDIANS))}
    template = rng.choice(TEMPLATES["refuse"])
    return _made("refuse", template, {**fields, "when": rng.choice(world.WHEN)})


def _count(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    first = rng.randint(0, 3)
    last = rng.randint(first + 2, 5)
    template = rng.choice(TEMPLATES["count"])
    fields = {"first": world.NUMBERS[first], "last": world.NUMBERS[last], "when": rng.choice(world.WHEN)}
    return _made("count", template, fields)


def _copy(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    words = _some_things(rng)
    return _made("copy", rng.choice(TEMPLATES["copy"]), {"words": words})


def _sort(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    return _made("sort", TEMPLATES["sort"][0], {"words": _some_things(rng)})


def _some_things(rng: random.Random) -> str:
    return " ".join(rng.sample(sorted(world.DOMAINS["things"]), rng.randint(3, 5)))


def _summarise(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    who, label = rng.choice(entities), rng.choice(list(world.ATTRIBUTES))
    fields = {"who": who, "label": label, "value": rng.choice(world.ATTRIBUTES[label])}
    fields["filler"] = rng.choice(world.FILLERS)
    return _made("summarise", rng.choice(TEMPLATES["summarise"]), fields)


def _sum(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    a, b = rng.randint(10, 49), rng.randint(10, 49)
    return _made("sum", TEMPLATES["sum"][0], {"a": " ".join(str(a)), "b": " ".join(str(b))})


def _hop(rng: random.Random, entities: tuple[str, ...], size: int) -> tuple[Task, Dialogue]:
    who = rng.choice(entities)
    return _made("hop", rng.choice(TEMPLATES["hop"]), {"who": who})


FAMILIES: dict[str, Family] = {
    "fact": _fact, "clarify": _clarify, "list": _list, "rewrite": _rewrite, "refuse": _refuse, "count": _count,
    "copy": _copy, "sort": _sort, "summarise": _summarise, "sum": _sum, "hop": _hop,
}  # fmt: skip
QUICK = {"fact": 45, "clarify": 10, "list": 15, "rewrite": 10, "refuse": 15, "count": 5}
"""family -> share of the usual splits"""
LONG = {"copy": 20, "sort": 20, "summarise": 20, "sum": 20, "hop": 20}
"""family -> share of the split `long`"""
BASE = {"fact": 30, "clarify": 10, "list": 18, "rewrite": 14, "refuse": 14, "count": 14}
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
    return replace(task, style=style), styled(dialogue, style)


def styled(dialogue: Dialogue, style: dict[str, str]) -> Dialogue:
    """A dialogue whose last turn names these constraints after its bare request."""
    wishes = " , ".join(CONSTRAINTS[kind][value] for kind, value in style.items())
    last = Message("user", STYLED.format(text=dialogue[-1].content, wishes=wishes))
    return (*dialogue[:-1], last)
