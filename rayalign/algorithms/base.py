"""The contract of an algorithm, and how one is found by name.

An algorithm is pure torch: no Ray, no I/O, no device moves, no change of its inputs. The coordinator and the Learner
ask it what it needs and never know its name. A new algorithm is one new file in this folder, or a user's own class
anywhere, named in the job as `package.module:Class`.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import ValidationError

from rayalign.config import Section, explain, nearest
from rayalign.errors import InputError
from rayalign.types import Batch, LossSum, Minibatch, Outputs, Role, Rollouts, Unit

Need = Literal["behaviour_logprobs", "logprobs", "reference_logprobs", "values", "scores"]


class AlgorithmConfig(Section):
    """Settings of one algorithm; each algorithm's file extends it."""

    name: str


C = TypeVar("C", bound=AlgorithmConfig)


class Algorithm(ABC, Generic[C]):
    """One way of training: what it needs, how a batch is made, and one loss for each trained role."""

    Config: ClassVar[type[AlgorithmConfig]]
    revision: ClassVar[int] = 1
    """raised when the mathematics change, so that finished stages run again"""
    unit: ClassVar[Unit]
    trains: ClassVar[tuple[Role, ...]]
    """roles with an objective; the first one is the stage's result"""

    def __init__(self, config: C) -> None:
        self.config = config

    @property
    def roles(self) -> frozenset[Role]:
        """Every role that must run, trained or not."""
        return frozenset(self.trains)

    @property
    def needs(self) -> frozenset[Need]:
        """What `prepare` must find in its rollouts."""
        return frozenset()

    @property
    def passes(self) -> int:
        """How often each rollout batch is gone through."""
        return 1

    @abstractmethod
    def prepare(self, rollouts: Rollouts) -> Batch:
        """Make the batch: every global number (advantages, whitening, group statistics) is made here.

        Online it runs once an iteration over the whole rollout batch; offline once over the data set.
        """

    @abstractmethod
    def normaliser(self, role: Role, minibatch: Minibatch) -> float:
        """What the loss sum of this minibatch is divided by; additive over any split of it into units."""

    @abstractmethod
    def loss(self, role: Role, outputs: Outputs, minibatch: Minibatch) -> LossSum:
        """The loss sum of a micro-batch of whole units for one trained role."""


def load(settings: Mapping[str, Any]) -> Algorithm[Any]:
    """The algorithm named by `settings["name"]`, its section validated.

    Raises:
        InputError: no such algorithm (with the nearest name), or settings it does not know.
    """
    name = str(settings.get("name", ""))
    kind = _find(name)
    try:
        return kind(kind.Config.model_validate(dict(settings)))
    except ValidationError as error:
        raise InputError(explain(error, kind.Config, where=f"algorithm {name}")) from error


def _find(name: str) -> type[Algorithm[Any]]:
    if ":" in name:
        module_name, _, class_name = name.partition(":")
        try:
            own: type[Algorithm[Any]] = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"algorithm {name}: cannot be imported ({error}); write it as package.module:Class"
            ) from error
        return own
    package = importlib.import_module("rayalign.algorithms")
    known = sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name not in ("base", "ops"))
    if name not in known:
        raise InputError(f"algorithm {name!r} is not known; {nearest(name, known)}")
    found: type[Algorithm[Any]] = importlib.import_module(f"rayalign.algorithms.{name}").ALGORITHM
    return found
