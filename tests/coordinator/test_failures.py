from __future__ import annotations

import asyncio

import pytest

from rayalign.coordinator.failures import raise_first
from rayalign.errors import ActorError, DeadlineError


def test_what_failed_first_is_raised_out_of_its_groups() -> None:
    inner = ActorError("the engine died")
    group = ExceptionGroup("tasks", [ExceptionGroup("more tasks", [inner])])
    with pytest.raises(ActorError) as caught:
        raise_first([asyncio.CancelledError(), group, DeadlineError("later")])
    assert caught.value is inner


def test_cancelled_tasks_and_results_are_not_failures() -> None:
    raise_first([None, asyncio.CancelledError()])
