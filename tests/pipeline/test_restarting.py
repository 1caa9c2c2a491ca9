from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayalign.config import ClusterConfig, LoadedJob
from rayalign.coordinator.recovery import Resumption
from rayalign.errors import ActorError, GuardError, LostError, RollbackError
from rayalign.pipeline import restarting
from rayalign.pipeline.prompt_order import prompt_order
from rayalign.pipeline.restarting import resume, with_restarts
from rayalign.storage.checkpoints import CheckpointStore
from rayalign.storage.journal import Journal
from rayalign.storage.records import encode
from rayalign.types import Example, Group, Message, Prompt, Score


class Context:
    """What of a run a restart needs."""

    def __init__(self, **cluster: Any) -> None:
        self.job = SimpleNamespace(cluster=ClusterConfig(**cluster))
        self.written: list[dict[str, Any]] = []
        self.events = SimpleNamespace(write=lambda event, **fields: self.written.append({"event": event, **fields}))
        self.pool_stops = 0
        self.waits: list[tuple[str, bool]] = []
        self.machines = SimpleNamespace(await_again=lambda stage, whole: self.waits.append((stage, whole)))

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


def test_the_next_attempt_waits_for_the_machines_of_the_stage() -> None:
    context = Context()
    assert train(context, DEAD, "done") == ("done", 2)
    assert context.waits == [("ppo", True)]


EXAMPLES = [Example(Prompt(name, (Message("user", name),)), ()) for name in "abcd"]
GAPS = {"a": 0.0, "b": 0.0, "c": 2.0, "d": 0.0}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Four iterations of one prompt each, of which one had candidates of different rewards."""
    with closing(Journal(tmp_path / "journal.jsonl")) as journal:
        for iteration, example in enumerate(EXAMPLES):
            group = Group(f"{iteration:05d}-0000.0", example.prompt, iteration, ())
            scores = [encode(Score(GAPS[example.prompt.id])), encode(Score(0.0))]
            journal.append({"kind": "submitted", "group": group.id, "iteration": iteration})
            journal.append({"kind": "finished", "group": encode(group)})
            journal.append({"kind": "scored", "group": group.id, "scores": scores})
            journal.append({"kind": "consumed", "iteration": iteration, "groups": [group.id]})
        checkpoints = CheckpointStore(tmp_path / "checkpoints", keep=1)
        checkpoints.commit(checkpoints.begin(4), {"iteration": 4, "journal": journal.position, "state": {}})
        yield journal


def test_a_resumed_stage_draws_its_prompts_by_the_rewards_of_before(
    study: Callable[..., LoadedJob], journal: Journal, tmp_path: Path
) -> None:
    settings = "{algorithm: {name: rloo}, prompts: 1, priority: {floor: 0}}"
    stage: Any = study("stages.rl.algorithm=null", f"stages.rl={settings}").job.stages["rl"]
    assert not stage.has_parts
    context: Any = SimpleNamespace(inputs=SimpleNamespace(fitting=lambda name, model: EXAMPLES))
    order = prompt_order(context, "rl", stage, 0)
    parts: Any = SimpleNamespace(
        journal=journal,
        checkpoints=CheckpointStore(tmp_path / "checkpoints", keep=1),
        rollouts=SimpleNamespace(scoring=object(), rewards=None, order=order),
        rollbacks=SimpleNamespace(last=None),
    )
    resumption: Resumption = resume(stage, parts)
    assert resumption.iteration == 4
    assert [order[place].prompt.id for place in range(4, 9)] == ["c"] * 5


@pytest.mark.parametrize(
    ("overrides", "carries", "returned_to"),
    [
        (("max_staleness: 2", "deterministic: true"), False, 3),
        (("max_staleness: 1", "overlap: {extra_prompts: 4, tail: later}"), True, None),
    ],
)
def test_a_stage_goes_on_by_its_own_settings(
    study: Callable[..., LoadedJob],
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, str],
    carries: bool,
    returned_to: int | None,
) -> None:
    settings = f"{{algorithm: {{name: rloo}}, prompts: 8, {', '.join(overrides)}}}"
    stage: Any = study("stages.rl.algorithm=null", f"stages.rl={settings}").job.stages["rl"]
    seen: dict[str, Any] = {}

    def recover(journal: str, checkpoints: str, **keywords: Any) -> Resumption:
        seen.update(keywords, journal=journal, checkpoints=checkpoints)
        return Resumption(iteration=4)

    monkeypatch.setattr(restarting, "recover", recover)
    scoring = None if carries else object()
    parts: Any = SimpleNamespace(
        journal="journal",
        checkpoints="checkpoints",
        rollouts=SimpleNamespace(scoring=scoring, rewards=None, order=None),
        rollbacks=SimpleNamespace(last=returned_to),
    )
    assert resume(stage, parts).iteration == 4
    assert seen == {
        "journal": "journal",
        "checkpoints": "checkpoints",
        "scored": scoring is not None,
        "max_staleness": 1 if carries else 2,
        "deterministic": not carries,
        "went_back_to": returned_to,
        "carries": carries,
    }


def test_a_reward_with_parts_knows_its_moments_again(
    study: Callable[..., LoadedJob], journal: Journal, tmp_path: Path
) -> None:
    stage: Any = study("stages.rl.reward=[{source: rules:length, normalise: true}]").job.stages["rl"]
    taken: list[list[str]] = []

    def take(groups: list[Group]) -> list[Group]:
        taken.append([group.id for group in groups])
        return groups

    parts: Any = SimpleNamespace(
        journal=journal,
        checkpoints=CheckpointStore(tmp_path / "checkpoints", keep=1),
        rollouts=SimpleNamespace(
            scoring=object(),
            rewards=SimpleNamespace(take=take),
            order=SimpleNamespace(observe=lambda iteration, groups: None),
        ),
        rollbacks=SimpleNamespace(last=None),
    )
    resume(stage, parts)
    assert taken == [[f"{iteration:05d}-0000.0"] for iteration in range(4)]
