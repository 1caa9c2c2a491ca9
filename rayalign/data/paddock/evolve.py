"""The world's own operators on prompts. Their true difficulty is known, so that evolution can be measured.

| operator | the new prompt | its difficulty |
|---|---|---|
| `constrain` | the same request under one more constraint of style | one more |
| `deepen` | a question for facts that asks for one more of them | one more |
| `breadth` | another request, of a family and a subject that are rare in the pool | the same |

A new prompt stays in the split of its parent, or is one of the split `hard`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rayalign.data.paddock import world
from rayalign.data.paddock.splits import LONGEST, length, prompt_of, split_of
from rayalign.data.paddock.tasks import CONSTRAINTS, LISTABLE, QUICK, Dialogue, Task, build, draw, join, parse, styled
from rayalign.data.paddock.understand import bare_request
from rayalign.errors import InputError
from rayalign.types import Message, Prompt

OPERATORS = ("constrain", "deepen", "breadth")
_TRIES = 60
"""draws after which no prompt of a fitting split is expected any more"""


@dataclass(frozen=True, slots=True)
class Frequencies:
    """How often families and subjects occur in a pool of prompts."""

    families: Counter[str]
    subjects: Counter[str]

    @classmethod
    def of(cls, prompts: Iterable[Prompt]) -> Frequencies:
        """Those of prompts of this world."""
        tasks = [task_in(prompt) for prompt in prompts]
        subjects: Counter[str] = Counter()
        for task in tasks:
            subjects.update(task.subject)
        return cls(Counter(task.family for task in tasks), subjects)


def task_in(prompt: Prompt) -> Task:
    """The task of a prompt.

    Raises:
        InputError: it is no prompt of this world.
    """
    if "task" not in prompt.meta:
        raise InputError(
            f"prompt {prompt.id} is not of the embedded world, whose operators need its task; name a model or an "
            "endpoint that evolves it"
        )
    return parse(prompt.meta["task"])


def applicable(prompt: Prompt) -> list[str]:
    """The operators that a prompt has room for."""
    task = task_in(prompt)
    fits = {"constrain": bool(_unset(task)), "deepen": bool(_further_labels(task)), "breadth": task.family in QUICK}
    return [operator for operator in OPERATORS if fits[operator]]


def evolve(prompt: Prompt, operator: str, rng: random.Random, pool: Frequencies) -> Prompt | None:
    """A new prompt; None where no draw gave a fitting one.

    Raises:
        InputError: it is no prompt of this world.
    """
    task, dialogue = task_in(prompt), prompt.messages
    splits = {split_of(task, dialogue), "hard"}
    for _ in range(_TRIES if operator in applicable(prompt) else 0):
        if operator == "constrain":
            new_task, new_dialogue = _constrained(task, dialogue, rng)
        elif operator == "deepen":
            new_task, new_dialogue = _deepened(task, dialogue, rng)
        else:
            new_task, new_dialogue = _elsewhere(task, rng, pool)
        rise = new_task.difficulty - task.difficulty
        is_as_hard_as_said = rise == (0 if operator == "breadth" else 1)
        if is_as_hard_as_said and length(new_dialogue) <= LONGEST and split_of(new_task, new_dialogue) in splits:
            return prompt_of(new_task, new_dialogue)
    return None


def _unset(task: Task) -> list[str]:
    """Kinds of constraints that the prompt does not name yet."""
    return [kind for kind in CONSTRAINTS if kind not in task.style and (kind != "form" or task.family in LISTABLE)]


def _further_labels(task: Task) -> list[str]:
    """Labels that a question for facts does not ask for yet."""
    labels = {slot.label for slot in task.slots}
    return [label for label in world.ATTRIBUTES if label not in labels] if task.family == "fact" else []


def _constrained(task: Task, dialogue: Dialogue, rng: random.Random) -> tuple[Task, Dialogue]:
    kind = rng.choice(_unset(task))
    added = {kind: rng.choice(list(CONSTRAINTS[kind]))}
    return _restyled(task, _bare(dialogue), task.style | added)


def _deepened(task: Task, dialogue: Dialogue, rng: random.Random) -> tuple[Task, Dialogue]:
    labels = [slot.label for slot in task.slots]
    more = [*labels, rng.choice(_further_labels(task))]
    bare = _bare(dialogue)
    words = bare[-1].content.replace(f"the {join(labels)} of", f"the {join(more)} of")
    deeper = build("fact", {"who": task.subject[0], "labels": join(more)})
    return _restyled(deeper, (*bare[:-1], Message("user", words)), task.style)


def _elsewhere(task: Task, rng: random.Random, pool: Frequencies) -> tuple[Task, Dialogue]:
    family = _rare(rng, list(QUICK), pool.families)
    subject = _rare(rng, world.SEEN_ENTITIES, pool.subjects)
    return draw(rng, {family: 1}, (subject,), task.difficulty)


def _rare(rng: random.Random, options: Sequence[str], counts: Counter[str]) -> str:
    """An option drawn by its inverse frequency."""
    return rng.choices(options, [1 / (1 + counts[option]) for option in options])[0]


def _bare(dialogue: Dialogue) -> Dialogue:
    """The dialogue without constraints."""
    request, _ = bare_request(dialogue[-1].content)
    return (*dialogue[:-1], Message("user", request))


def _restyled(task: Task, bare: Dialogue, style: dict[str, str]) -> tuple[Task, Dialogue]:
    ordered = dict(sorted(style.items()))
    return replace(task, style=ordered), styled(bare, ordered) if ordered else bare
