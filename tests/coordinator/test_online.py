"""The online trainer with every part in this process: which calls it makes, in which order, and what it keeps."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from rayalign.cluster.channel import Transfer
from rayalign.cluster.ledger import DeviceLedger
from rayalign.cluster.turns import PRESENCE, DeviceTurns, Move, Part, Sharer, Sizes
from rayalign.config import CandidateSource, GuardConfig, LearnerConfig, TrackingConfig, TrainStage
from rayalign.coordinator.online import OnlineTrainer, Parts
from rayalign.coordinator.recovery import Resumption
from rayalign.coordinator.rollbacks import Rollbacks, read_rollbacks
from rayalign.errors import (
    ActorError,
    DeadlineError,
    GuardError,
    LostDataError,
    LostError,
    RayalignError,
    RollbackError,
)
from rayalign.models.batching import pass_over
from rayalign.storage.checkpoints import CheckpointStore
from rayalign.storage.events import EventLog
from rayalign.storage.journal import Accounting, Journal
from rayalign.types import Absence, Group, Message, Metric, Prompt, Score, Segment, Trajectory

PROMPT = Prompt("p", (Message("user", "q"),))
Log = list[tuple[str, Any]]
DEVICE = "logical:0"
ENGINE: Sizes = {"weights": 10, "cache": 60}
LEARNER: Sizes = {"weights": 10, "training": 30}


def group(iteration: int, version: int, absent: tuple[Absence, ...] = ()) -> Group:
    """Two candidates: one that the policy wrote in three tokens, one of the data set."""
    own = (Segment(0, "template"), Segment(1, "policy", version))
    name = f"{iteration:05d}-0000.0"
    written = Trajectory(name, 0, (1, 2, 3, 4), own, (-1.0, -1.0, -1.0), "stop", "text")
    given = Trajectory(name, 1, (1, 2, 3), (Segment(0, "template"), Segment(1, "dataset")), (), "stop", "text")
    return Group(name, PROMPT, iteration, (written, given), (Score(1.0), Score(0.0)), absent)


class Role:
    """A role's actor group of one rank, which logs its calls and answers from a table."""

    def __init__(self, name: str, log: Log, answers: Mapping[str, Any]) -> None:
        self._name, self._log, self._answers = name, log, answers

    def __getattr__(self, method: str) -> Any:
        def remote(*arguments: Any) -> Any:
            self._log.append((f"{self._name}.{method}", arguments))
            answer = self._answers.get(method)
            if isinstance(answer, Exception):
                raise answer
            return answer(*arguments) if callable(answer) else answer

        return SimpleNamespace(remote=remote)

    async def all(self, call: Callable[[Any], Any]) -> list[Any]:
        await asyncio.sleep(0)
        return [call(self)]

    async def first(self, call: Callable[[Any], Any]) -> Any:
        return (await self.all(call))[0]


def step(loss: float) -> dict[str, Metric]:
    """What the policy's Learner reports of one step."""
    return {"loss/policy": Metric(loss), "learner/grad_norm": Metric(0.5)}


class Rollouts:
    """The rollout loop's interface: every iteration is there at once."""

    def __init__(self, log: Log, journal: Journal, groups: Callable[[int], Group]) -> None:
        self._log, self._journal, self._groups = log, journal, groups
        self.failure: Exception | None = None
        self.resumed: Any = None

    def figures(self, iteration: int) -> dict[str, float]:
        return {"rollout/rejected": 0}

    def resume(
        self,
        iteration: int,
        groups: Sequence[Group],
        serials: Mapping[tuple[int, int], int],
        consumed: Collection[tuple[int, int]],
    ) -> None:
        self._log.append(("resume", iteration))
        self.resumed = (groups, serials, consumed)

    async def run(self) -> None:
        if self.failure is not None:
            raise ExceptionGroup("tasks", [self.failure])
        await asyncio.Event().wait()

    async def published(self, version: int) -> None:
        self._log.append(("published", version))

    async def take(self, iteration: int) -> list[Group]:
        self._log.append(("take", iteration))
        await asyncio.sleep(0.01)
        taken = self._groups(iteration)
        self._journal.append({"kind": "submitted", "group": taken.id, "iteration": iteration, "prompt": "p"})
        return [taken]


class Channel:
    """The weight channel's interface."""

    def __init__(self, log: Log, turns: DeviceTurns) -> None:
        self._log, self._turns = log, turns

    async def transfer(self, policy: Role, pool: object, version: int) -> Transfer:
        await self._turns.enter("publish")
        self._log.append(("transfer", version))
        await self._turns.enter("rollout")
        return Transfer(version, 0.5, 100, 1e-6, restarted=version)


class Pool:
    """The generator pool's interface: what is in flight ends soon after it is held."""

    starved, timeout = False, 0.5

    def __init__(self, log: Log) -> None:
        self._log = log
        self.in_flight = 0
        self.stuck = False

    def hold(self) -> None:
        self._log.append(("hold", self.in_flight))
        if not self.stuck:
            asyncio.get_running_loop().call_later(0.03, self._end)

    async def release(self) -> None:
        self._log.append(("release", self.in_flight))

    def _end(self) -> None:
        self._log.append(("written", self.in_flight))
        self.in_flight = 0


class Sink:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.rows: dict[int, Mapping[str, float]] = {}

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self.rows[step] = {**self.rows.get(step, {}), **metrics}

    def close(self) -> None:
        pass


class Bench:
    """A trainer of two iterations with everything around it."""

    def __init__(self, folder: Path, closing: ExitStack, samples: int = 4, **settings: Any) -> None:
        self.log: Log = []
        self.journal = Journal(folder / "journal.jsonl")
        closing.callback(self.journal.close)
        events = EventLog(folder / "events.jsonl")
        closing.callback(events.close)
        self.turns = DeviceTurns(DeviceLedger({DEVICE: 100}), events)
        self.checkpoints = CheckpointStore(folder / "checkpoints", keep=2)
        self.sink = Sink()
        self.pool = Pool(self.log)
        self.answers: dict[str, dict[str, Any]] = {
            "preparer": {"collate": "rollouts", "prepare": ("batch", {"beta": 0.5}, {"reward/mean": Metric(2.0)})},
            "policy": {"evaluate": "logprobs", "update": [step(1.0), step(3.0)]},
            "critic": {
                "evaluate": "values",
                "update": [{"loss/critic": Metric(4.0), "learner/grad_norm": Metric(9.0)}],
            },
        }
        roles = {name: Role(name, self.log, answers) for name, answers in self.answers.items()}
        values = {"prompts": 1, "iterations": 2, "candidates": (CandidateSource(source="live", count=1),)} | settings
        self.settings = TrainStage(kind="train", algorithm={"name": "ppo"}, model="m", **values)
        self.rollouts = Rollouts(self.log, self.journal, lambda iteration: group(iteration, version=iteration))
        algorithm = SimpleNamespace(
            needs=frozenset({"logprobs", "values", "scores"}),
            trains=("policy", "critic"),
            takes_engine_logprobs=True,
        )
        parts: Any = Parts(
            algorithm=algorithm,  # type: ignore[arg-type]
            roles=roles,  # type: ignore[arg-type]
            preparer=roles["preparer"],  # type: ignore[arg-type]
            pool=self.pool,  # type: ignore[arg-type]
            channel=Channel(self.log, self.turns),  # type: ignore[arg-type]
            turns=self.turns,
            rollouts=self.rollouts,  # type: ignore[arg-type]
            journal=self.journal,
            checkpoints=self.checkpoints,
            sink=self.sink,
            samples=SimpleNamespace(write=lambda iteration, groups: self.samples.append(len(groups))),  # type: ignore[arg-type]
            events=events,
            rollbacks=Rollbacks(folder, read_rollbacks(folder)),
        )
        self.samples: list[int] = []
        self.trainer = OnlineTrainer(self.settings, TrackingConfig(samples=samples), parts, seed=7, pad_id=0)

    def train(self, resumption: Resumption | None = None) -> None:
        asyncio.run(self.trainer.train(resumption or Resumption()))

    def share(self) -> None:
        """Let policy, critic and engine take turns on one device, the moves among the calls."""
        for role, sizes in (("generator", ENGINE), ("policy", LEARNER), ("critic", LEARNER)):
            offload, reload = self._move(f"{role}.offload"), self._move(f"{role}.reload")
            self.turns.add(Sharer(role, [DEVICE], sizes, PRESENCE[role], offload, reload), "training")

    def _move(self, name: str) -> Move:
        async def move(parts: Sequence[Part]) -> None:
            self.log.append((name, tuple(parts)))

        return move

    @property
    def calls(self) -> list[str]:
        return [name for name, _ in self.log]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    with ExitStack() as closing:
        yield lambda **settings: Bench(tmp_path, closing, **settings)


ITERATION = [
    "take",
    "preparer.collate",
    "policy.evaluate",
    "critic.evaluate",
    "preparer.prepare",
    "policy.update",
    "critic.update",
    "transfer",
    "published",
]


def test_an_iteration_is_taken_evaluated_prepared_trained_on_and_published_in_this_order(
    make: Callable[..., Bench],
) -> None:
    bench = make(deterministic=True, checkpoint_every=2)
    bench.train()
    saves = ["policy.save_state", "critic.save_state"]
    assert bench.calls == ["resume", "transfer", "published", *ITERATION, *ITERATION, *saves]
    assert [version for name, version in bench.log if name == "published"] == [0, 1, 2]
    updates = [arguments for name, arguments in bench.log if name.endswith(".update")]
    assert updates == [("batch", 7), ("batch", 7), ("batch", 8), ("batch", 8)]


def test_engines_that_come_while_there_is_no_other_get_the_present_weights(
    make: Callable[..., Bench],
) -> None:
    starved = make(checkpoint_every=2)
    starved.pool.starved = True
    starved.train()
    assert [version for name, version in starved.log if name == "transfer"] == [0, 0, 1, 1, 2]


def test_a_batch_is_made_again_where_a_part_of_it_was_lost(make: Callable[..., Bench]) -> None:
    bench = make(deterministic=True, checkpoint_every=2, iterations=1)
    lost = iter([LostDataError("the reference's share is lost"), None])
    whole = bench.answers["preparer"]["prepare"]

    def prepare(*arguments: Any) -> Any:
        failure = next(lost)
        if failure is not None:
            raise failure
        return whole

    bench.answers["preparer"]["prepare"] = prepare
    bench.train()
    made = ["preparer.collate", "policy.evaluate", "critic.evaluate", "preparer.prepare"]
    start = bench.calls.index("take") + 1
    assert bench.calls[start : start + 9] == [*made, *made, "policy.update"]
    phases = [name for name in bench.sink.rows[0] if name.startswith("phase/")]
    assert "phase/evaluate" in phases


def test_a_part_that_is_lost_again_and_again_ends_the_loop(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.answers["preparer"]["prepare"] = LostDataError("the reference's share is lost")
    with pytest.raises(LostDataError, match="share is lost"):
        bench.train()
    assert bench.calls.count("preparer.prepare") == 4


def test_a_lost_learner_ends_the_loop_at_once(make: Callable[..., Bench]) -> None:
    bench = make(deterministic=True)
    bench.answers["policy"]["evaluate"] = LostError("policy (pid 1) died")
    with pytest.raises(LostError, match="policy"):
        bench.train()
    assert bench.calls.count("policy.evaluate") == 1


def test_on_a_shared_device_engines_sleep_from_take_to_published(make: Callable[..., Bench]) -> None:
    bench = make(checkpoint_every=1, iterations=1)
    bench.share()
    bench.train()
    first = bench.calls.index("preparer.collate")
    both = ("weights", "training")
    assert bench.log[first + 1 : first + 4] == [
        ("generator.offload", ("weights", "cache")),
        ("policy.reload", both),
        ("critic.reload", both),
    ]
    saves = ["policy.save_state", "critic.save_state"]
    away = ["policy.offload", "critic.offload", "generator.reload", "transfer", "policy.offload", "generator.reload"]
    assert bench.calls[bench.calls.index("critic.update") + 1 :] == [*saves, *away, "published"]
    moves = [parts for name, parts in bench.log[-7:] if name.endswith("load")]
    assert moves == [("training",), both, ("weights",), ("weights",), ("cache",)]


def test_outputs_are_handed_to_prepare_by_name_and_its_state_to_the_next(make: Callable[..., Bench]) -> None:
    bench = make(deterministic=True)
    bench.train()
    prepared = [arguments for name, arguments in bench.log if name == "preparer.prepare"]
    outputs = {"logprobs_BT": ["logprobs"], "values_BT": ["values"]}
    assert prepared == [("rollouts", outputs, {}), ("rollouts", outputs, {"beta": 0.5})]


def test_the_policy_does_not_read_again_what_engines_agree_on(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.train()
    prepared = [arguments for name, arguments in bench.log if name == "preparer.prepare"]
    assert prepared[0] == ("rollouts", {"values_BT": ["values"]}, {})
    assert "policy.evaluate" not in dict(bench.log)


@pytest.mark.parametrize("steps", [1, 3])
def test_op_k_draws_with_new_weights_after_every_k_optimizer_steps(make: Callable[..., Bench], steps: int) -> None:
    learner, prompts = LearnerConfig(minibatch=12), 2 * steps
    bench = make(candidates=f"OP-{steps}", prompts=prompts, learner=learner)
    group_B = torch.arange(prompts).repeat_interleave(bench.settings.candidates_per_prompt)

    def update(batch: object, seed: int) -> list[Any]:
        bench.log += [("step", seed) for _ in pass_over(torch.ones_like(group_B), group_B, learner, seed, 0)]
        return []

    bench.answers["policy"]["update"] = update
    bench.train()
    weights = [name for name in bench.calls if name in ("step", "published", "take")]
    iteration = ["take", *["step"] * steps, "published"]
    assert weights == ["published", *iteration, *iteration]


def test_every_group_is_consumed_once(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.train()
    account = Accounting.of(bench.journal.replay(effective=True))
    assert dict(account.consumed) == {"00000-0000.0": 1, "00001-0000.0": 1}


def test_a_checkpoint_holds_what_the_next_iteration_depends_on(make: Callable[..., Bench]) -> None:
    bench = make(checkpoint_every=1)
    bench.train()
    latest = bench.checkpoints.latest()
    assert latest is not None
    path, manifest = latest
    assert path.name == "iteration-000002"
    assert (manifest["iteration"], manifest["state"], manifest["score"]) == (2, {"beta": 0.5}, 2.0)
    assert manifest["journal"] == bench.journal.position
    timed = ("phase/", "rollout/tokens_per_second")
    reported = {name: value for name, value in bench.sink.rows[1].items() if not name.startswith(timed)}
    assert reported.items() <= manifest["metrics"].items()


@pytest.mark.parametrize("earlier", [[], [{"step": 1, "metrics": {"reward/mean": 9.0}}]])
def test_an_iteration_whose_checkpoint_is_there_is_reported_as_the_checkpoint_has_it(
    make: Callable[..., Bench], tmp_path: Path, earlier: list[dict[str, Any]]
) -> None:
    """An interruption may come between the two, also where an earlier attempt had reported the iteration."""
    bench = make(iterations=3)
    rows = [{"step": 0, "metrics": {"reward/mean": 0.0}}, *earlier]
    resumption = Resumption(2, {}, tmp_path / "c", metrics={"reward/mean": 1.0})
    asyncio.run(bench.trainer.train(resumption, rows))
    assert sorted(bench.sink.rows) == [1, 2]
    assert bench.sink.rows[1] == {"reward/mean": 1.0}


def test_a_metric_that_is_not_finite_is_committed_and_reported_after_a_resume(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = make(checkpoint_every=1)
    rewards(bench, math.inf, 1.0)
    bench.train()
    latest = bench.checkpoints.latest()
    assert latest is not None
    assert latest[1]["metrics"]["reward/mean"] == 1.0
    resumed = make(iterations=3)
    resumption = Resumption(2, {}, tmp_path / "c", metrics={"reward/mean": None})
    asyncio.run(resumed.trainer.train(resumption))
    assert math.isnan(resumed.sink.rows[1]["reward/mean"])


def test_a_resumed_training_loads_its_state_and_goes_on(make: Callable[..., Bench], tmp_path: Path) -> None:
    bench = make()
    bench.train(Resumption(1, {"beta": 0.25}, tmp_path / "c"))
    loads = [(name, arguments) for name, arguments in bench.log if name.endswith("load_state")]
    assert loads == [(f"{role}.load_state", (str(tmp_path / "c" / role),)) for role in ("policy", "critic")]
    assert [argument for name, argument in bench.log if name == "take"] == [1]
    (prepared,) = [arguments for name, arguments in bench.log if name == "preparer.prepare"]
    assert prepared[2] == {"beta": 0.25}
    assert [version for name, version in bench.log if name == "published"] == [1, 2]


def test_metrics_of_all_parts_are_reported(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.train()
    row = bench.sink.rows[1]
    assert row["reward/mean"] == 2.0
    assert row["loss/policy"] == 2.0
    assert row["loss/critic"] == 4.0
    assert (row["learner/grad_norm"], row["critic/grad_norm"]) == (0.5, 9.0)
    assert row["publish/probe_gap"] == 1e-6
    assert row["rollout/staleness"] == 0
    phases = [value for name, value in row.items() if name.startswith("phase/") and name != "phase/total"]
    assert sum(phases) == pytest.approx(row["phase/total"])


def test_tokens_are_those_that_the_policy_wrote(make: Callable[..., Bench]) -> None:
    """The data set's answer in each group has no part in tokens/s."""
    bench = make()
    bench.train()
    row = bench.sink.rows[0]
    assert row["rollout/tokens"] == 3
    assert row["rollout/tokens_per_second"] == pytest.approx(3 / row["phase/total"])


def test_absent_candidates_are_counted(make: Callable[..., Bench]) -> None:
    bench = make()
    absent = (Absence(2, "stumbled"), Absence(3, "stumbled"))
    bench.rollouts._groups = lambda iteration: group(iteration, iteration, absent)
    bench.train()
    assert bench.sink.rows[1]["rollout/absent"] == 2


def test_staleness_is_that_of_the_oldest_group(make: Callable[..., Bench]) -> None:
    bench = make(max_staleness=1)
    bench.rollouts._groups = lambda iteration: group(iteration, version=max(0, iteration - 1))
    bench.train()
    assert [bench.sink.rows[i]["rollout/staleness"] for i in (0, 1)] == [0, 1]


def test_a_guard_stops_the_run_after_its_iteration_was_reported(make: Callable[..., Bench]) -> None:
    bench = make(guards=(GuardConfig(metric="reward/mean", above=1.0, action="stop"),))
    with pytest.raises(GuardError, match="reward/mean is 2"):
        bench.train()
    assert list(bench.sink.rows) == [0]


ROLLBACK = GuardConfig(metric="reward/mean", above=1.0, patience=2, action="rollback")


def rewards(bench: Bench, *means: float) -> None:
    """Have the iterations report these rewards."""
    following = iter(means)

    def prepare(*arguments: object) -> Any:
        return "batch", {}, {"reward/mean": Metric(next(following))}

    bench.answers["preparer"]["prepare"] = prepare


def test_a_guard_sends_the_stage_back_to_before_its_metric_went_out_of_bounds(make: Callable[..., Bench]) -> None:
    bench = make(guards=(ROLLBACK,), iterations=9, checkpoint_every=1)
    rewards(bench, 0.0, 2.0, 0.0, 0.0, 2.0, 2.0)
    with pytest.raises(RollbackError, match=r"^iteration 5: reward/mean is 2, above 1; the stage goes back"):
        bench.train()
    latest = bench.checkpoints.latest()
    assert latest is not None and latest[1]["iteration"] == 4
    assert bench.sink.rows[5]["guard/rollbacks"] == 1


def test_the_checkpoint_to_go_back_to_is_kept_among_newer_ones(make: Callable[..., Bench]) -> None:
    bench = make(guards=(ROLLBACK.model_copy(update={"patience": 5}),), iterations=9, checkpoint_every=1)
    rewards(bench, 0.0, 0.0, *[2.0] * 5)
    with pytest.raises(RollbackError):
        bench.train()
    latest = bench.checkpoints.latest()
    assert latest is not None and latest[1]["iteration"] == 2


def test_a_good_run_is_not_sent_back(make: Callable[..., Bench]) -> None:
    bench = make(guards=(ROLLBACK,), iterations=4, checkpoint_every=1)
    rewards(bench, 0.0, 2.0, 1.0, 2.0)
    bench.train()
    assert list(bench.sink.rows) == [0, 1, 2, 3]
    assert not any("guard/rollbacks" in row for row in bench.sink.rows.values())


def test_what_a_resumed_stage_reported_before_counts(make: Callable[..., Bench], tmp_path: Path) -> None:
    bench = make(guards=(ROLLBACK,), iterations=9)
    rewards(bench, 2.0)
    reported = [{"step": 2, "metrics": {"reward/mean": 2.0}}]
    with pytest.raises(RollbackError, match="iteration 3"):
        asyncio.run(bench.trainer.train(Resumption(3, {}, tmp_path / "c"), reported))


@pytest.mark.parametrize("metric", ["learner/grad_norm", "critic/grad_norm"])
def test_a_gradient_that_is_not_finite_sends_a_guarded_stage_back(make: Callable[..., Bench], metric: str) -> None:
    bench = make(guards=(GuardConfig(metric=metric, above=1e3, action="rollback"),))
    undefined = GuardError("policy step 1: the loss or its gradient is not finite, and no step was taken; look")
    bench.answers["policy"]["update"] = undefined
    with pytest.raises(RollbackError, match="no step was taken; the stage goes back to its last good"):
        bench.train()
    assert bench.sink.rows[0]["guard/rollbacks"] == 1


def test_a_role_that_fails_ends_the_training_with_its_error(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.answers["critic"]["update"] = ActorError("critic died")
    with pytest.raises(ActorError, match="critic died"):
        bench.train()
    # the policy's update, on the same batch, has ended too
    assert bench.calls[-2:] == ["policy.update", "critic.update"]


def test_a_rollout_loop_that_fails_ends_the_training_with_its_error(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.rollouts.failure = ActorError("no generator is left")
    with pytest.raises(ActorError, match="no generator is left"):
        bench.train()


def test_a_group_that_nobody_consumed_is_an_error_at_the_end(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.journal.append({"kind": "submitted", "group": "00000-0001.0", "iteration": 0, "prompt": "p"})
    with pytest.raises(RayalignError, match="neither consumed nor dropped: 00000-0001.0"):
        bench.train()


class WaitingStore:
    """Checkpoints whose commit lasts until the event loop has done other work."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.loop_went_on = threading.Event()
        self.committed = False

    def begin(self, iteration: int) -> Path:
        return self._folder

    def commit(self, path: Path, manifest: dict[str, Any], is_good: object) -> None:
        self.committed = self.loop_went_on.wait(timeout=30.0)


def test_the_rollout_loop_goes_on_while_a_checkpoint_is_hashed(tmp_path: Path) -> None:
    store = WaitingStore(tmp_path)
    parts = SimpleNamespace(
        algorithm=SimpleNamespace(trains=()),
        journal=SimpleNamespace(sync=lambda: None, position=0),
        checkpoints=store,
    )
    stage = TrainStage(kind="train", algorithm={"name": "sft"}, model="stage:base", checkpoint_every=1)
    trainer = OnlineTrainer(stage, TrackingConfig(), cast("Parts", parts), seed=0, pad_id=0)

    async def rollouts() -> None:
        store.loop_went_on.set()

    async def both() -> None:
        states = await trainer._save_states(1)
        await asyncio.gather(trainer._commit(states, 1, {}), rollouts())

    asyncio.run(both())
    assert store.committed


def test_new_weights_wait_for_the_answers_in_flight_where_the_job_says_so(make: Callable[..., Bench]) -> None:
    bench = make(max_staleness=1, overlap={"in_flight": "wait"})
    bench.pool.in_flight = 3
    bench.train()
    begin = bench.calls.index("hold")
    assert bench.calls[begin : begin + 5] == ["hold", "written", "transfer", "release", "published"]
    assert bench.calls.count("hold") == bench.calls.count("transfer") == 3


@pytest.mark.parametrize("overlap", [None, {"in_flight": "continue"}, {"in_flight": "restart"}])
def test_else_nothing_waits_for_answers(overlap: dict[str, str] | None, make: Callable[..., Bench]) -> None:
    bench = make(max_staleness=1, overlap=overlap)
    bench.train()
    assert "hold" not in bench.calls
    assert [bench.sink.rows[i]["publish/restarted"] for i in (0, 1)] == [1, 2]


def test_answers_that_never_end_are_named_where_weights_wait_for_them(make: Callable[..., Bench]) -> None:
    bench = make(max_staleness=1, overlap={"in_flight": "wait"})
    bench.pool.in_flight, bench.pool.stuck = 3, True
    with pytest.raises(DeadlineError, match="new weights wait for 3 answers that were not written within 0 s"):
        bench.train()
    assert bench.calls[-1] == "release"


def test_what_was_made_before_an_interruption_is_handed_to_the_rollout_loop(make: Callable[..., Bench]) -> None:
    bench = make()
    kept, serials, consumed = (group(2, version=1),), {(2, 0): 3}, frozenset({(0, 0)})
    bench.train(Resumption(2, groups=kept, serials=serials, consumed=consumed))
    assert bench.rollouts.resumed == (kept, serials, consumed)


@pytest.mark.parametrize("samples", [0, 1])
def test_as_many_groups_are_written_for_people_as_the_job_has_it(make: Callable[..., Bench], samples: int) -> None:
    bench = make(samples=samples)
    bench.train()
    assert bench.samples == [samples, samples]
