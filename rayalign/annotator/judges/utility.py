"""Judges that give each answer a number and compare the numbers: exactly, or as a simulated human would."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from rayalign.annotator.judges import human as humans
from rayalign.annotator.judges.verdicts import Pair as Pair
from rayalign.annotator.judges.verdicts import Paying, Scoring, Verdict
from rayalign.config import HumanConfig, JudgeConfig, nearest
from rayalign.data.paddock import compose, gold, tasks, understand, world
from rayalign.data.paddock.tasks import Task
from rayalign.errors import InputError
from rayalign.types import Prompt, Score

WISHES = "wishes"
"""a criterion beside the attributes"""
_CRITERIA = (*compose.ATTRIBUTES, WISHES)


class Judge(Protocol):
    """Compares answers, in AlpacaFarm's convention."""

    def compare(self, pairs: Sequence[Pair], *, seed: int) -> list[float | None]:
        """For each pair 1 (first better), 2 (second better), between them a probability, 1.5 a tie, None no verdict."""


class RubricJudge:
    """A simulated labeller of the embedded world: Bradley-Terry draws on the gold utility, with named biases.

    The simulated human of `human.py`, by default with new draws under every seed. A verdict depends on seed, prompt and
    answers alone, not on the batch; without `position_bias` swapping the answers mirrors it. Equal answers tie.
    """

    def __init__(self, config: JudgeConfig, utility: Callable[[Prompt, str], float] | None = None) -> None:
        self._human = config
        self._gold = utility or gold.utility

    def compare(self, pairs: Sequence[Pair], *, seed: int) -> list[float | None]:
        """As `Judge.compare`."""
        return [self._verdict(prompt, (first, second), seed) for prompt, first, second in pairs]

    def _verdict(self, prompt: Prompt, answers: tuple[str, str], seed: int) -> float | None:
        first, second = (humans.felt(self._human, self._gold(prompt, answer), answer) for answer in answers)
        return humans.opinion(self._human, (first, second), answers, prompt.id, seed).preference


class Utilities(Scoring, Protocol):
    """The numbers of a `UtilityJudge`. A score with a value has its ground as `reason`."""

    @property
    def revision(self) -> str:
        """Hash of everything that decides the numbers."""


class RubricUtilities:
    """Gold utility of the embedded world, or the weighted sum of some of its attributes.

    Args:
        criteria: attribute -> weight of any sign; those that do not apply to a prompt add nothing. `wishes` is the
            share of the prompt's own constraints that an answer meets, and so of the preferences that it stands under.
            Empty: the whole utility.

    Raises:
        InputError: no such attribute, or a weight that is no number.
    """

    def __init__(self, criteria: Mapping[str, float] | None = None) -> None:
        self._criteria = dict(criteria or {})
        for name, weight in self._criteria.items():
            if name not in _CRITERIA:
                raise InputError(f"criteria: {name!r} is no attribute; {nearest(name, _CRITERIA)}")
            if not math.isfinite(weight):
                raise InputError(f"criteria: the weight of {name} is {weight}; give a finite number")
        # a cache of the old world must not answer for a changed one
        sources = [inspect.getsource(module) for module in (gold, compose, tasks, understand, world)]
        self.revision = _hash(self._criteria, *sources)

    async def scores(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """Absent where the prompt is not of the embedded world."""
        tasks_by_prompt: dict[tuple[str, str | None], Task | str] = {}
        return [self._score(_task(prompt, tasks_by_prompt), prompt, answer) for prompt, answer in items]

    def _score(self, task: Task | str, prompt: Prompt, answer: str) -> Score:
        if isinstance(task, str):
            return Score(None, task)
        answer = understand.last_answer(answer)
        shares = gold.judged(task, answer)
        if self._criteria:
            met_wishes = gold.met_wishes(task, shares) if WISHES in self._criteria else None
            if met_wishes is not None:
                shares[WISHES] = met_wishes
            value = sum(weight * shares.get(name, 0.0) for name, weight in self._criteria.items())
        else:
            value = gold.worth(task, answer, shares, gold.style_weights(prompt))
        met = [name for name, share in shares.items() if share == 1.0]
        grounds = [name for name in met if not self._criteria or name in self._criteria]
        return Score(value, ", ".join(grounds) or "none of it")


class UtilityJudge:
    """Compares answers by their utilities; implements `PairJudge` and `Scoring`.

    Args:
        utilities: a number for each answer.
        human: how a human departs from them; several: one of them is drawn for each prompt, by the seed; none: they are
            compared exactly, and only equal ones tie.
        name: part of the noise; annotators with other names err elsewhere.
    """

    batch = 64

    def __init__(self, utilities: Utilities, human: HumanConfig | Sequence[HumanConfig] | None, name: str) -> None:
        self._utilities, self._name = utilities, name
        self._people = (human,) if isinstance(human, HumanConfig) else tuple(human or ())
        dumps = [person.model_dump() for person in self._people]
        dump = dumps if len(dumps) > 1 else next(iter(dumps), None)
        self.revision = _hash(name, dump, utilities.revision, inspect.getsource(humans))

    async def judge(self, pairs: Sequence[Pair], *, seed: int, paying: Paying | None = None) -> list[Verdict]:
        """One verdict for each pair; none where an answer has no utility. It costs nothing."""
        answers: list[tuple[Prompt, str]] = []
        for prompt, first_answer, second_answer in pairs:
            answers += [(prompt, first_answer), (prompt, second_answer)]
        scores = await self._utilities.scores(answers)
        return [
            self._verdict(pair, first, second, seed)
            for pair, first, second in zip(pairs, scores[::2], scores[1::2], strict=True)
        ]

    async def scores(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """The utility of each answer to this annotator: with its tastes, without its noise."""
        scores = await self._utilities.scores(items)
        own_scores: list[Score] = []
        human = next(iter(self._people), None)
        for score, (_, answer) in zip(scores, items, strict=True):
            problem = _problem(score)
            own_scores.append(Score(None, problem) if problem else Score(_felt(human, score, answer)))
        return own_scores

    def _key(self, prompt: Prompt) -> str:
        return "\0".join((self._name, *(message.content for message in prompt.messages)))

    def _drawn_human(self, key: str, seed: int) -> HumanConfig | None:
        if len(self._people) < 2:
            return next(iter(self._people), None)
        return random.Random(f"human{key}{seed}").choice(self._people)

    def _verdict(self, pair: Pair, first: Score, second: Score, seed: int) -> Verdict:
        prompt, answers = pair[0], (pair[1], pair[2])
        if problem := _problem(first) or _problem(second):
            return Verdict(None, problem)
        key = self._key(prompt)
        human = self._drawn_human(key, seed)
        felt = (_felt(human, first, answers[0]), _felt(human, second, answers[1]))
        exact = humans.Opinion(*_exact(felt))
        opinion = exact if human is None else humans.opinion(human, felt, answers, key, seed)
        if opinion.preference is None:
            return Verdict(None, opinion.explanation, utilities=felt)
        explanation = opinion.explanation + _grounds(first, second, opinion.preference)
        return Verdict(opinion.preference, explanation=explanation, utilities=felt)


def _felt(human: HumanConfig | None, score: Score, answer: str) -> float:
    value = score.value or 0.0
    return value if human is None else humans.felt(human, value, answer)


def _grounds(first: Score, second: Score, preference: float) -> str:
    """The grounds of both answers, the better one's first; in words that hold for both orders."""
    if not (first.reason and second.reason):
        return ""
    grounds = [first.reason, second.reason]
    if preference == 1.5:
        grounds.sort()
    elif preference > 1.5:
        grounds.reverse()
    return f" ({'; against: '.join(grounds)})"


def _exact(utilities: tuple[float, float]) -> tuple[float, str]:
    first, second = utilities
    if first == second:
        return 1.5, f"both worth {first:.3f}"
    return 1.0 if first > second else 2.0, f"worth {max(utilities):.3f} against {min(utilities):.3f}"


def _problem(score: Score) -> str | None:
    """The reason why a score can't be compared; None where it can."""
    if score.value is None:
        return score.reason or "no score"
    return None if math.isfinite(score.value) else f"the score is {score.value}, which is no number to compare"


def _task(prompt: Prompt, tasks_by_prompt: dict[tuple[str, str | None], Task | str]) -> Task | str:
    """The task of a prompt, from its data set's `meta` or else from its words; or the reason why there is none."""
    text = "\n\n".join(message.content for message in prompt.messages if message.role != "system")
    recorded = prompt.meta.get("task")
    if (text, recorded) not in tasks_by_prompt:
        try:
            task = understand.task_of(text) if recorded is None else understand.checked(recorded)
        except InputError as error:
            tasks_by_prompt[text, recorded] = str(error)
        else:
            tasks_by_prompt[text, recorded] = task or _STRANGE
    return tasks_by_prompt[text, recorded]


_STRANGE = (
    "the prompt is none of the embedded world's, which alone this annotator knows: ask such as 'tell me the color of "
    "ada .' (rayalign's data source paddock writes them), or choose an annotator of kind llm or reward_model"
)


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
