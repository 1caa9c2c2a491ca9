from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from rayalign.cluster.pool import GeneratorPool
from rayalign.config import LoadedJob
from rayalign.errors import ActorError
from rayalign.pipeline.early_pool import EarlyPool, next_model
from rayalign.pipeline.kind import kinds_of

Study = Callable[..., LoadedJob]
POOL = cast(GeneratorPool, object())


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ((), None),  # its source is a preset, which has no shapes that can be read
        (("base",), "stage:base"),
        (("base", "sft"), "stage:sft"),
    ],
)
def test_engines_start_with_the_nearest_model_that_is_there(
    study: Study, tmp_path: Path, made: tuple[str, ...], expected: str | None
) -> None:
    for name in made:
        (tmp_path / name).mkdir()
    job = study().job
    kinds = kinds_of(job)
    later = [kinds[name] for name in ("verdicts", "draws", "rl")]
    assert next_model(job, later, lambda text: tmp_path / text.removeprefix("stage:")) == expected


def test_a_model_from_elsewhere_is_there_and_without_a_generator_none_is_needed(study: Study, tmp_path: Path) -> None:
    job = study("stages.draws.model=someone/model").job
    kinds = kinds_of(job)
    assert next_model(job, [kinds["draws"]], lambda text: tmp_path / text) == "someone/model"
    assert next_model(job, [kinds["rm"]], lambda text: tmp_path / text) is None


def test_the_pool_starts_in_a_thread_and_a_failure_gives_none(caplog: pytest.LogCaptureFixture) -> None:
    threads: list[str] = []

    async def start() -> GeneratorPool:
        threads.append(threading.current_thread().name)
        return POOL

    async def fail() -> GeneratorPool:
        raise ActorError("generator (pid 1) died")

    assert asyncio.run(EarlyPool(start).result()) is POOL
    assert threads == ["engines"]
    assert asyncio.run(EarlyPool(fail).result()) is None
    assert "generator (pid 1) died" in caplog.text
