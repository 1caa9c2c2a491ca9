"""Engines that start while an earlier stage works."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from itertools import chain
from pathlib import Path
from typing import Any

from rayalign.cluster.pool import GeneratorPool
from rayalign.config import Job, Reference
from rayalign.errors import RayalignError
from rayalign.pipeline.kind import StageKind, kind_of
from rayalign.pipeline.needs import GENERATOR

logger = logging.getLogger(__name__)


def next_model(job: Job, kinds: Iterable[StageKind[Any]], folder: Callable[[str], Path]) -> str | None:
    """A model with the shapes that the engines need next, which is there already, as the job names it; None without.

    Args:
        kinds: of the stages to come, in their order.
        folder: where the output of a stage is.
    """
    needs = chain.from_iterable(kind.roles(job) for kind in kinds)
    model = next((need.model for need in needs if need.role == GENERATOR), None)
    while model is not None:
        reference = Reference.parse(model)
        if reference is None or folder(model).is_dir():
            return model
        # what a stage trains has the shapes of what it starts from
        model = kind_of(job.stages[reference.stage]).source(reference.role)
    return None


class EarlyPool:
    """A start of the pool in a thread of its own, which ends with the process where nobody waits for it."""

    def __init__(self, start: Callable[[], Coroutine[Any, Any, GeneratorPool]]) -> None:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="engines", daemon=True).start()
        self._future: Future[GeneratorPool] = asyncio.run_coroutine_threadsafe(start(), loop)
        self._future.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))

    async def result(self) -> GeneratorPool | None:
        """The pool, or None where it could not start; then the one that is needed starts again and says why."""
        try:
            return await asyncio.wrap_future(self._future)
        except RayalignError as error:
            logger.warning("the engines that started early have failed: %s", error)
            return None
