from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rayalign import cores
from rayalign.cores import NICENESS_STEP, yield_to_learners
from rayalign.rollout.loop import EngineLoop
from rayalign.rollout.scripted import ScriptedEngine, random_table


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_a_thread_that_yields_and_those_that_it_starts_are_nicer_than_the_others() -> None:
    usual = niceness()
    with ThreadPoolExecutor(1, initializer=yield_to_learners) as yielding:
        assert yielding.submit(niceness).result(10.0) == usual + NICENESS_STEP
        with yielding.submit(lambda: ThreadPoolExecutor(1)).result(10.0) as usual_pool:
            inner = yielding.submit(lambda: usual_pool.submit(niceness).result(10.0)).result(10.0)
    assert inner == usual + NICENESS_STEP
    assert niceness() == usual


def test_no_niceness_passes_the_systems_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "NICENESS_STEP", 100)
    with ThreadPoolExecutor(1, initializer=yield_to_learners) as yielding:
        assert yielding.submit(niceness).result(10.0) == 19


@pytest.mark.parametrize("yields", [False, True])
def test_an_engine_yields_where_it_is_told_to(yields: bool) -> None:
    loop = EngineLoop(lambda: ScriptedEngine(random_table(8)), yields=yields)
    assert loop.call(lambda engine: niceness(), 10.0) == niceness() + yields * NICENESS_STEP
    loop.close(10.0)
