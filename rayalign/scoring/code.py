"""A user's own code as a scorer: `package.module:function` or `package.module:Class`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

from rayalign.errors import InputError
from rayalign.scoring.base import Scorer
from rayalign.types import Group, Prompt, Score, ScorePart, Trajectory, with_turns
from rayalign.user_code import import_dotted


class CodeScorer:
    """Calls user code; its exceptions are absent scores with the reason, and so is a value that is no finite number.

    A function is called as `function(prompt, answer, **settings)` and returns a number, a `Score`, or None for no
    score. A class is made with `settings`: it is a `Scorer`, or its objects are called as `scorer(prompt, answer)`.
    """

    def __init__(self, path: str, settings: Mapping[str, Any]) -> None:
        """
        Raises:
            InputError: the code cannot be imported, or the class cannot be made with these settings.
        """
        self._path = path
        self._function, self._scorer = _prepare(path, import_code(path), settings)

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """As `Scorer.score`."""
        if self._scorer is not None:
            return self._guarded(self._scorer, groups)
        scores: list[tuple[Score, ...]] = []
        for group in groups:
            scores.append(tuple(self._call(group.prompt, trajectory) for trajectory in group.trajectories))
        return scores

    def _call(self, prompt: Prompt, trajectory: Trajectory) -> Score:
        assert self._function is not None
        try:
            return self._checked(self._function(with_turns(prompt, trajectory.turns), trajectory.text))
        except Exception as error:  # user code may raise anything, and one answer must not end the run
            return self._failure(error)

    def _guarded(self, scorer: Scorer, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        try:
            answers = scorer.score(groups)
            scores: list[tuple[Score, ...]] = []
            for group, answer in zip(groups, answers, strict=True):
                pairs = zip(group.trajectories, answer, strict=True)
                scores.append(tuple(self._checked(score) for _, score in pairs))
        except Exception as error:
            return [(self._failure(error),) * len(group.trajectories) for group in groups]
        return scores

    def _checked(self, value: Any) -> Score:
        if not isinstance(value, Score):
            return Score(*self._number(value))
        parts = tuple(self._checked_part(part) for part in value.parts)
        if value.value is None:
            return replace(value, parts=parts)
        number, problem = self._number(value.value)
        return Score(number, problem or value.reason, parts)

    def _checked_part(self, part: ScorePart) -> ScorePart:
        if part.value is None:
            return part
        number, problem = self._number(part.value)
        return ScorePart(part.name, number, problem or part.reason)

    def _number(self, value: Any) -> tuple[float | None, str | None]:
        """A finite number, or None and the reason."""
        if not isinstance(value, Real):
            return None, f"{self._path} returned {type(value).__name__}, not a number"
        number = float(value)
        if not math.isfinite(number):
            return None, f"{self._path} returned {number}"
        return number, None

    def _failure(self, error: Exception) -> Score:
        return Score(None, f"{self._path} raised {type(error).__name__}: {error}")


def import_code(path: str) -> Callable[..., Any]:
    """What a dotted path names.

    Raises:
        InputError: it cannot be imported, or cannot be called.
    """
    code = import_dotted(path)
    if not callable(code):
        raise InputError(f"{path} is neither a function nor a class; write it as package.module:name")
    function_or_class: Callable[..., Any] = code
    return function_or_class


def _prepare(
    path: str, code: Callable[..., Any], settings: Mapping[str, Any]
) -> tuple[Callable[..., Any] | None, Scorer | None]:
    """The function to call for each answer, or the scorer of whole groups."""
    if not isinstance(code, type):
        return (lambda prompt, answer: code(prompt, answer, **settings)), None
    try:
        instance = code(**settings)
    except Exception as error:  # user code may raise anything
        raise InputError(f"{path} cannot be made with settings {dict(settings)} ({error}); correct them") from error
    if hasattr(instance, "score"):
        return None, instance
    return instance, None
