"""The reward's actor in this process: everything happens in one thread of its own."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from rayalign.actors import reward
from rayalign.actors.hosted import Rendezvous
from rayalign.actors.reward import RewardActor
from rayalign.config import LearnerConfig
from rayalign.cores import NICENESS_STEP
from rayalign.scoring.sources import RewardSpec
from rayalign.types import Group, Message, Prompt, Score, Segment, Trajectory

MEETING = Rendezvous(0, 1, "127.0.0.1", 1)
WRITTEN = Trajectory("g", 0, (1, 2), (Segment(0, "policy", 0),), (-1.0, -1.0), "stop", "a b")
GROUP = Group("g", Prompt("p", (Message("user", "q"),)), 0, (WRITTEN,))


class Remembering:
    """A user's scorer that keeps its scores in SQLite, whose connections belong to the thread that opened them."""

    def __init__(self) -> None:
        self._rows = sqlite3.connect(":memory:")
        self._rows.execute("create table scores (value real, niceness integer)")

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        for group in groups:
            self._rows.execute("insert into scores values (?, ?)", (float(len(group.trajectories)), niceness))
        rows = self._rows.execute("select value, niceness from scores").fetchall()
        return [tuple(Score(value + nice) for value, nice in rows)]


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> RewardActor:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(reward, "make_scorer", lambda spec, spread: Remembering())
    monkeypatch.setattr(reward, "frozen_models", lambda scorer: [])
    made = RewardActor(RewardSpec((), LearnerConfig(), "", 60.0))
    made.setup(MEETING)
    return made


def test_calls_from_several_threads_reach_the_scorer_in_the_thread_that_made_it(actor: RewardActor) -> None:
    with ThreadPoolExecutor(4) as callers:
        answers = list(callers.map(actor.score, [[GROUP]] * 8, timeout=30.0))
    counts = sorted(len(scores) for (scores,) in answers)
    assert counts == [1, 2, 3, 4, 5, 6, 7, 8], "one after another"
    usual = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert {score.value for score in answers[-1][0]} == {1.0 + usual + NICENESS_STEP}
    actor.offload(["weights"])
    actor.reload(["weights"])
    actor.close()


def test_an_error_of_the_scorer_reaches_the_caller(actor: RewardActor) -> None:
    with pytest.raises(AttributeError, match="trajectories"):
        actor.score([object()])  # type: ignore[list-item]
    assert actor.score([GROUP])
    actor.close()
