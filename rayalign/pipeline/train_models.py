"""What the models of a train stage are: what they may start from, what they become, and which rewards suit."""

from __future__ import annotations

from typing import Any

from rayalign.algorithms.base import Algorithm
from rayalign.config import TrainStage
from rayalign.pipeline.kind import CRITIC, LANGUAGE_MODEL, PAIRWISE_MODEL, REWARD_MODEL
from rayalign.types import Role

_MADE: dict[Role, str] = {"policy": LANGUAGE_MODEL, "reward": REWARD_MODEL, "critic": CRITIC}


def made_model(algorithm: Algorithm[Any] | None, role: Role) -> str:
    """What a role is once it is trained."""
    return PAIRWISE_MODEL if role == "reward" and _reads_pairs(algorithm) else _MADE[role]


def starting_models(algorithm: Algorithm[Any] | None, role: Role) -> tuple[str, ...]:
    """What the first trained role may start from."""
    if role != "reward":
        return (LANGUAGE_MODEL,)
    models = (LANGUAGE_MODEL, REWARD_MODEL)
    return (*models, PAIRWISE_MODEL) if _reads_pairs(algorithm) else models


def suitable_rewards(stage: TrainStage, algorithm: Algorithm[Any] | None, place: int) -> tuple[str, ...]:
    """What the reward model at a place may be: one that compares needs two answers, and starts no critic."""
    trained = algorithm.trains if algorithm is not None else ()
    starts_critic = place == 0 and stage.critic is None and "critic" in trained
    compares = stage.candidates_per_prompt > 1 and not starts_critic
    return (REWARD_MODEL, PAIRWISE_MODEL) if compares else (REWARD_MODEL,)


def _reads_pairs(algorithm: Algorithm[Any] | None) -> bool:
    return algorithm is not None and algorithm.reads_pairs
