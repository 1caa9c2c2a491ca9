from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from rayalign.config import ClusterConfig
from rayalign.errors import ActorError, GuardError, LostError, RollbackError
from rayalign.pipeline.restarting import with_restarts


class Context:
    """What of a run a restart needs."""

    def __init__(self, **cluster: Any) -> None:
        self.job = SimpleNamespace(cluster=ClusterConfig(**cluster))
        self.written: list[dict[str, Any]] = []
        self.events = SimpleNamespace(write=lambda event, **fields: self.written.append({"event": event, **fields}))
        self.pool_stops = 0

    def stop_broken_pool(self) -> None:
        self.pool_stops += 1


def train(context: Context, *outcomes: Exception | str) -> tuple[str, int]:
    """The outcome of a stage whose attempts end so, and how many attempts there were."""
    following = list(outcomes)

    async def attempt() -> str:
        outcome = following.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    outcome = asyncio.run(with_restarts(context, "ppo", attempt))  # type: ignore[arg-type]
    return outcome, len(outcomes) - len(following)


DEAD = LostError("policy rank 1 (pid 7) died: its process has died\nlast log lines:\nnone")


def test_a_stage_goes_on_after_losses_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    context = Context(restarts=2)
    assert train(context, DEAD, DEAD, "done") == ("done", 3)
    reason = "policy rank 1 (pid 7) died: its process has died"
    assert context.written == [
        {"event": "stage_restarted", "stage": "ppo", "reason": reason, "left": left} for left in (1, 0)
    ]
    assert "ppo goes on from its last checkpoint; 1 more restarts may follow" in caplog.text


def test_no_more_restarts_than_the_job_allows() -> None:
    with pytest.raises(LostError, match="policy rank 1"):
        train(Context(restarts=1), DEAD, DEAD, "done")
    with pytest.raises(LostError, match=r"has died; the same command goes on .*\nlast log lines"):
        train(Context(restarts=0), DEAD, "done")


def test_a_stage_that_a_guard_sent_back_goes_on_whatever_restarts_are_left(caplog: pytest.LogCaptureFixture) -> None:
    context = Context(restarts=0)
    sent_back = RollbackError("kl is 3, above 1; the stage goes back to its last good checkpoint")
    assert train(context, sent_back, sent_back, "done") == ("done", 3)
    assert context.pool_stops == 2
    assert "the stage goes back" in caplog.text
    with pytest.raises(GuardError, match="allows no more"):
        train(Context(), sent_back, GuardError("its guard allows no more"), "done")


def test_another_failure_ends_the_stage_at_once() -> None:
    with pytest.raises(ActorError, match="no such column"):
        train(Context(), ActorError("policy failed: no such column"), "done")


def test_engines_that_cannot_serve_another_attempt_end_before_it() -> None:
    context = Context()
    assert train(context, DEAD, "done") == ("done", 2)
    assert context.pool_stops == 1
