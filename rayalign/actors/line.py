"""The line of weight messages over Ray: calls from the policy's rank 0 to the generators."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from rayalign.errors import DeadlineError
from rayalign.weights.paths.line import EngineLine

logger = logging.getLogger(__name__)


class _Answer:
    """A call of `accept` under way."""

    def __init__(self, ref: ray.ObjectRef, timeout: float) -> None:
        self._ref = ref
        self._timeout = timeout

    def wait(self) -> bool:
        try:
            return bool(ray.get(self._ref, timeout=self._timeout))
        except (RayActorError, RayTaskError) as error:
            logger.warning("an engine refused weights: %s", str(error).strip().splitlines()[-1])
            return False
        except GetTimeoutError as error:
            raise DeadlineError(
                f"an engine did not take weights within {self._timeout:.0f} s; see the generators' logs, "
                "or raise cluster.transfer_timeout"
            ) from error


class _Endpoint:
    """One generator."""

    def __init__(self, actor: Any, timeout: float) -> None:
        self._actor = actor
        self._timeout = timeout

    def start(self, number: int, message: Any) -> _Answer:
        # Inside a list, Ray passes a reference on as it is.
        return _Answer(self._actor.accept.remote(number, [message]), self._timeout)


def line_to(actors: Sequence[Any], timeout: float) -> EngineLine:
    """A line to generators."""
    return EngineLine([_Endpoint(actor, timeout) for actor in actors])
