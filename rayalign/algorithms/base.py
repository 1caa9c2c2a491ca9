"""The contract of an algorithm, and how one is found by name.

An algorithm is pure torch: no Ray, no I/O, no device moves, no change of its inputs. The coordinator and the Learner
ask it what it needs and never know its name. A new algorithm is one new file in this folder, or a user's own class
anywhere, named in the job as `package.module:Class`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from rayalign.config import Section, explain, nearest
from rayalign.errors import InputError
from rayalign.types import Batch, Group, LossSum, Minibatch, Outputs, Role, Rollouts, Unit
from rayalign.user_code import import_dotted

Need = Literal[
    "behaviour_logprobs",
    "logprobs",
    "reference_logprobs",
    "values",
    "scores",
    "preferences",
    "exact_kl",
    "desirability",
    "mismatched",
]
"""`preferences` are those of pairs; `desirability` is that of single answers, and `mismatched` gives each of them a
second row with an answer to another prompt"""


class AlgorithmConfig(Section):
    """Settings of one algorithm; each algorithm's file extends it."""

    name: str
    """a file of `rayalign/algorithms`, or `package.module:Class`"""


C = TypeVar("C", bound=AlgorithmConfig)


class Algorithm(ABC, Generic[C]):
    """One way of training: what it needs, how a batch is made, and one loss for each trained role."""

    Config: ClassVar[type[AlgorithmConfig]]
    revision: ClassVar[int] = 1
    """raised when the mathematics change, so that finished stages run again"""
    unit: ClassVar[Unit]
    reads_pairs: ClassVar[bool] = False
    """offline, of pairs: each row is the prompt with both answers, in either order; see `data/two_answers.py`"""
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
    def learns_online_only(self) -> bool:
        """Whether it needs what the live policy writes; by default where it needs numbers that no file has."""
        return bool(self.needs & {"behaviour_logprobs", "values", "exact_kl"})

    @property
    def passes(self) -> int:
        """How often each rollout batch is gone through."""
        return 1

    @property
    def fewest_candidates(self) -> int:
        """How many candidates of a prompt it takes, online, to learn anything."""
        return 1

    @property
    def metrics(self) -> frozenset[str]:
        """Every metric that `prepare` and `loss` can report, by name `area/name`; guards may watch these.

        By default those of `ops.rollout_metrics` and a loss for each trained role.
        """
        from rayalign.algorithms import ops

        return ops.ROLLOUT_METRICS | {f"loss/{role}" for role in self.trains}

    @property
    def reads_entropy(self) -> bool:
        """Whether a loss reads `outputs.entropy_BT`; if not, it is None, which is faster."""
        return True

    @property
    def differentiates_entropy(self) -> bool:
        """Whether a loss differentiates `outputs.entropy_BT`; if not, it has no gradient, which is faster."""
        return False

    @property
    def takes_engine_logprobs(self) -> bool:
        """Whether the engines' log-probs may fill `rollouts.logprobs_BT` where trainer and engines agree on them."""
        return False

    @property
    def reward_tokens(self) -> int:
        """How many reward tokens the prompts' own is replaced among; `rollouts.reward_tokens` are their ids."""
        return 0

    @property
    def max_rejections(self) -> int:
        """How many groups that `reject` names each place of an iteration may replace; the next one is consumed."""
        return 0

    def reject(self, group: Group) -> str | None:
        """Why a scored group is of no use for training, so that another prompt replaces it; None where it is."""
        return None

    def measured_rows(self, rollouts: Rollouts) -> Tensor:
        """Offline: True for each row of a minibatch whose `logprobs` `prepare` reads; by default all."""
        return torch.ones(len(rollouts.group_B), dtype=torch.bool)

    @abstractmethod
    def prepare(self, rollouts: Rollouts) -> Batch:
        """Make the batch: every number that concerns more than one sequence is made here.

        Online it runs once an iteration over the whole rollout batch, so advantages and whitening are global. Offline
        it runs on each minibatch as its rows are read, the same on every rank, and on each piece of the held-out rows:
        numbers over a whole data set do not exist there. Rows come as whole units in their order.
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
        return _import_class(name)
    if name in _file_names():
        module = importlib.import_module(f"rayalign.algorithms.{name}")
        if hasattr(module, "ALGORITHM"):
            algorithm: type[Algorithm[Any]] = module.ALGORITHM
            return algorithm
    raise InputError(f"algorithm {name!r} is not known; {nearest(name, algorithm_names())}")


def _import_class(path: str) -> type[Algorithm[Any]]:
    code = import_dotted(path, "package.module:Class")
    if not (isinstance(code, type) and issubclass(code, Algorithm)):
        raise InputError(f"algorithm {path}: is no subclass of {__name__}:Algorithm; see docs/extending.md")
    if not hasattr(code, "Config") or inspect.isabstract(code):
        raise InputError(f"algorithm {path}: lacks Config, prepare, normaliser or loss; see docs/extending.md")
    return code


def _file_names() -> list[str]:
    package = importlib.import_module("rayalign.algorithms")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def algorithm_names() -> list[str]:
    """The files of this folder that are algorithms; the others hold what several share."""
    modules = {name: importlib.import_module(f"rayalign.algorithms.{name}") for name in _file_names()}
    return [name for name, module in modules.items() if hasattr(module, "ALGORITHM")]
