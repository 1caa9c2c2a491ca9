"""The rollout loop over a pool and a reward in this process: admission, replacement, redoing, order, deadline."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any

import pytest

from rayalign.algorithms.base import load
from rayalign.cluster.wires import Wires
from rayalign.config import BeamConfig, CandidateSource, RewardSource, SamplingConfig, TrainStage
from rayalign.coordinator.groups import GroupAssembler
from rayalign.coordinator.order import PriorityOrder, PromptOrder, Rewards
from rayalign.coordinator.recovery import consumed_iterations
from rayalign.coordinator.rendering import Draw
from rayalign.coordinator.rollouts import RolloutLoop, live_draws
from rayalign.coordinator.scoring import ScoredGroup, ScoringLoop
from rayalign.errors import ActorError, DeadlineError
from rayalign.rollout.base import Finished, Request, candidate_seed
from rayalign.rollout.scripted import Script, ScriptedEngine, random_table
from rayalign.scoring.parts import RewardCombiner
from rayalign.storage.events import EventLog
from rayalign.storage.journal import Accounting, Journal
from rayalign.types import Candidate, Example, Group, Message, Prompt, Score, ScorePart, Segment, Trajectory

EXAMPLES = [Example(Prompt(f"p{i}", (Message("user", str(i)),)), (Candidate("a b"),)) for i in range(50)]
SAMPLING = SamplingConfig(max_tokens=24)
Log = list[tuple[str, Any]]


class Pool:
    """The generator pool's interface around one engine."""

    def __init__(self, log: Log, fail: Sequence[str] = (), stuck: bool = False, script: Script | None = None) -> None:
        self.engine = ScriptedEngine(random_table(12), fail=fail, script=script)
        self.requests: list[Request] = []
        self._log, self._stuck = log, stuck

    @property
    def pending(self) -> int:
        return self.engine.pending

    async def submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._log.append(("submitted", request.key))
            self.requests.append(request)
            self.engine.submit(request)

    async def abort(self, keys: Collection[str]) -> None:
        self._log.append(("aborted", sorted(keys)))
        self.engine.abort(keys)

    async def finished(self) -> AsyncGenerator[Finished, None]:
        while True:
            await asyncio.sleep(0)
            for item in [] if self._stuck else self.engine.step():
                yield item


class Replica:
    """One actor of the reward."""

    def __init__(self, score: Callable[[Sequence[Group]], Any]) -> None:
        self.score = SimpleNamespace(remote=score)


class Reward:
    """The reward's actor group: `judge` says a group's scores."""

    def __init__(self, judge: Callable[[Group], tuple[Score, ...]], replicas: int = 1) -> None:
        self.asked: list[list[str]] = []
        self._judge = judge
        self.actors = [Replica(self._score) for _ in range(replicas)]
        self.spread = False
        self.wires = Wires()

    def __len__(self) -> int:
        return len(self.actors)

    def _score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        self.asked.append([group.id for group in groups])
        return [self._judge(group) for group in groups]

    async def steady(self, rank: int, call: Callable[[Any], Any]) -> Any:
        answer = call(self.actors[rank])
        await asyncio.sleep(0)
        return answer


class Renderer:
    """Token ids of its own, without a tokenizer."""

    context, turns, model = 128, None, "policy"

    def requests(self, group_id: str, prompt: Prompt, seeds: Sequence[int], own_draws: Sequence[Draw]) -> list[Request]:
        drawn = enumerate(zip(seeds, own_draws, strict=True))
        return [Request(f"{group_id}/{i}", (1, 2), seed, draw.sampling, (0,)) for i, (seed, draw) in drawn]

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens))

    def dataset_trajectory(self, group_id: str, index: int, prompt: Prompt, answer: Candidate) -> Trajectory:
        segments = (Segment(0, "template"), Segment(2, "dataset"))
        return Trajectory(group_id, index, (1, 2, 3, 4), segments, (), "stop", answer.text)


def lengths(group: Group) -> tuple[Score, ...]:
    return tuple(Score(float(len(t.logprobs))) for t in group.trajectories)


class Bench:
    """A loop with everything around it."""

    def __init__(self, folder: Path, reward: Reward | None = None, **settings: Any) -> None:
        fail, stuck, timeout = (settings.pop(k, d) for k, d in (("fail", ()), ("stuck", False), ("timeout", 20.0)))
        script = settings.pop("script", None)
        algorithm = settings.pop("algorithm", {"name": "ppo"})
        rewards = settings.pop("rewards", None)
        candidates = (CandidateSource(source="live", count=2),)
        values = {"prompts": 3, "iterations": 4, "candidates": candidates, "sampling": SAMPLING} | settings
        self.settings = TrainStage(kind="train", algorithm=algorithm, model="m", **values)
        self.log: Log = []
        self.pool = Pool(self.log, fail, stuck, script)
        self.reward = reward or Reward(lengths)
        self.journal = Journal(folder / "journal.jsonl")
        events = EventLog(folder / "events.jsonl")
        self.loop = RolloutLoop(
            self.settings,
            seed=5,
            algorithm=load(self.settings.algorithm),
            order=PromptOrder(EXAMPLES, 5),
            assembler=GroupAssembler(self.pool, Renderer(), timeout=timeout),  # type: ignore[arg-type]
            scoring=ScoringLoop(
                self.reward,  # type: ignore[arg-type]
                redo=self.settings.redo,
                alone=self.settings.deterministic,
                events=events,
            ),
            journal=self.journal,
            events=events,
            timeout=timeout,
            rewards=rewards,
        )
        self.close = ExitStack()
        self.close.callback(self.journal.close)
        self.close.callback(events.close)

    def run(self, first: int = 0) -> list[list[Group]]:
        """Take all iterations as the trainer does, with time for the rollouts to run ahead; the groups of each."""
        return asyncio.run(self._run(first))

    async def _run(self, first: int) -> list[list[Group]]:
        rollouts = asyncio.ensure_future(self.loop.run())
        training = asyncio.ensure_future(self._train(first))
        await asyncio.wait({rollouts, training}, return_when=asyncio.FIRST_COMPLETED)
        rollouts.cancel()
        training.cancel()
        outcomes = await asyncio.gather(training, rollouts, return_exceptions=True)
        for outcome in outcomes:
            while isinstance(outcome, BaseExceptionGroup):
                outcome = outcome.exceptions[0]
            if isinstance(outcome, Exception):
                raise outcome
        return outcomes[0]  # type: ignore[return-value]

    async def _train(self, first: int) -> list[list[Group]]:
        taken = []
        for _ in range(20):
            await asyncio.sleep(0)
        await self._publish(first)
        for iteration in range(first, self.settings.iterations):
            taken.append(await self.loop.take(iteration))
            self.journal.append({"kind": "consumed", "iteration": iteration, "groups": [g.id for g in taken[-1]]})
            for _ in range(100):
                await asyncio.sleep(0)
            await self._publish(iteration + 1)
        return taken

    async def _publish(self, version: int) -> None:
        self.pool.engine.version = version
        self.log.append(("published", version))
        await self.loop.published(version)

    @property
    def account(self) -> Accounting:
        return Accounting.of(self.journal.replay(effective=True))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes benches with settings of the stage, and closes their files."""
    with ExitStack() as files:

        def bench(reward: Reward | None = None, **settings: Any) -> Bench:
            made = Bench(tmp_path, reward, **settings)
            files.enter_context(made.close)
            return made

        yield bench


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_a_group_is_submitted_as_soon_as_and_never_before_it_can_be_consumed(
    staleness: int, make: Callable[..., Bench]
) -> None:
    bench = make(max_staleness=staleness)
    taken = bench.run()
    published = {version: at for at, (kind, version) in enumerate(bench.log) if kind == "published"}
    submitted = {key: at for at, (kind, key) in enumerate(bench.log) if kind == "submitted"}
    assert len(submitted) == 4 * 3 * 2
    for key, at in submitted.items():
        iteration = int(key[:5])
        assert at > published[max(0, iteration - staleness)]
        if staleness and iteration:
            assert at < published[iteration], "nothing overlaps"
    gaps = [iteration - group.version for iteration, groups in enumerate(taken) for group in groups]
    assert max(gaps) == staleness
    assert min(gaps) == 0
    bench.account.check(ended=True)


def test_an_iteration_is_whole_scored_and_in_the_order_of_its_places(make: Callable[..., Bench]) -> None:
    bench = make(max_staleness=1)
    taken = bench.run()
    assert [[g.id for g in groups] for groups in taken] == [
        [f"{i:05d}-{slot:04d}.0" for slot in range(3)] for i in range(4)
    ]
    order = PromptOrder(EXAMPLES, 5)
    assert [g.prompt.id for groups in taken for g in groups] == [order[i].prompt.id for i in range(12)]
    for group in (g for groups in taken for g in groups):
        assert [t.text for t in group.trajectories] == [Renderer().decode(t.token_ids[2:]) for t in group.trajectories]
        assert group.scores == lengths(group)


def test_scoring_starts_before_the_last_group_is_finished(make: Callable[..., Bench]) -> None:
    bench = make(prompts=8, iterations=1)
    bench.run()
    assert len(bench.reward.asked) > 1


def test_in_deterministic_mode_a_group_is_scored_alone(make: Callable[..., Bench]) -> None:
    bench = make(prompts=8, iterations=2, deterministic=True)
    bench.run()
    assert [len(groups) for groups in bench.reward.asked] == [1] * 16


def test_a_group_that_failed_is_dropped_counted_and_replaced_by_another_prompt(make: Callable[..., Bench]) -> None:
    failed = ["00000-0001.0", "00002-0000.0", "00002-0000.1"]
    bench = make(fail=failed)
    taken = bench.run()
    assert bench.account.dropped == dict.fromkeys(failed, "the script says so")
    bench.account.check(ended=True)
    assert [g.id for g in taken[0]] == ["00000-0000.0", "00000-0001.1", "00000-0002.0"]
    assert taken[2][0].id == "00002-0000.2"
    order = PromptOrder(EXAMPLES, 5)
    # the planned prompts are positions 0 to 11; substitutes come from after them
    assert taken[0][1].prompt.id == order[12 + 1].prompt.id
    assert taken[2][0].prompt.id == order[2 * 12 + 6].prompt.id


def test_a_place_that_nothing_can_fill_ends_the_run(make: Callable[..., Bench]) -> None:
    bench = make(fail=[f"00001-0002.{serial}" for serial in range(9)])
    with pytest.raises(ActorError, match="4 prompts in a row failed for one place of iteration 1: the script says so"):
        bench.run()
    assert len(bench.account.dropped) == 4


class Moody:
    """Fails to score the groups of some prompts, each so often."""

    def __init__(self, failures: dict[str, int]) -> None:
        self._left = Counter(failures)

    def __call__(self, group: Group) -> tuple[Score, ...]:
        if self._left[group.prompt.id] > 0:
            self._left[group.prompt.id] -= 1
            return (Score(1.0), Score(None, "out of paper"))
        return lengths(group)


def test_an_absent_score_is_asked_for_again(make: Callable[..., Bench]) -> None:
    victim = PromptOrder(EXAMPLES, 5)[1].prompt.id
    bench = make(Reward(Moody({victim: 1})), redo=1)
    bench.run()
    assert not bench.account.dropped
    assert sum(groups.count("00000-0001.0") for groups in bench.reward.asked) == 2


def test_a_score_once_given_is_kept_when_another_of_its_group_is_asked_for_again(make: Callable[..., Bench]) -> None:
    """Else a group of K would need K scores to succeed at once, and nearly all groups of a faulty judge be dropped."""
    turns: Counter[str] = Counter()

    def alternating(group: Group) -> tuple[Score, ...]:
        turns[group.id] += 1
        odd = turns[group.id] % 2 == 1
        return (Score(1.0), Score(None, "away")) if odd else (Score(None, "away"), Score(2.0))

    bench = make(Reward(alternating), redo=1)
    taken = bench.run()
    assert not bench.account.dropped
    assert {group.scores for groups in taken for group in groups} == {(Score(1.0), Score(2.0))}


def test_a_score_that_stays_absent_costs_the_group_and_is_counted(make: Callable[..., Bench]) -> None:
    victim = PromptOrder(EXAMPLES, 5)[1].prompt.id
    bench = make(Reward(Moody({victim: 99})), redo=2)
    taken = bench.run()
    assert bench.account.dropped == {"00000-0001.0": "no score: out of paper"}
    bench.account.check(ended=True)
    assert sum(groups.count("00000-0001.0") for groups in bench.reward.asked) == 3
    assert taken[0][1].id == "00000-0001.1"
    assert taken[0][1].scores == lengths(taken[0][1])


def equal(group: Group) -> tuple[Score, ...]:
    return (Score(1.0),) * len(group.trajectories)


def test_a_rejected_group_is_dropped_with_its_reason_counted_and_replaced(make: Callable[..., Bench]) -> None:
    victim = PromptOrder(EXAMPLES, 5)[1].prompt.id
    reward = Reward(lambda group: equal(group) if group.prompt.id == victim else (Score(0.0), Score(1.0)))
    bench = make(reward, algorithm={"name": "grpo", "max_rejections": 2})
    taken = bench.run()
    assert bench.account.dropped == {"00000-0001.0": "all scores are equal"}
    assert taken[0][1].prompt.id == PromptOrder(EXAMPLES, 5)[12 + 1].prompt.id
    assert bench.loop.figures(0)["rollout/rejected"] == 1
    bench.account.check(ended=True)


def test_a_run_whose_groups_are_all_rejected_goes_on_with_the_last_of_each_place(make: Callable[..., Bench]) -> None:
    """More rejections than failures are allowed, which end a run."""
    bench = make(Reward(equal), algorithm={"name": "grpo", "max_rejections": 6}, iterations=1)
    (groups,) = bench.run()
    assert [group.id for group in groups] == [f"00000-{slot:04d}.6" for slot in range(3)]
    assert bench.loop.figures(0)["rollout/rejected"] == 18 and len(bench.account.dropped) == 18
    bench.account.check(ended=True)


def test_failures_between_rejections_are_not_in_a_row(make: Callable[..., Bench]) -> None:
    failed = [f"00000-0001.{serial}" for serial in (0, 1, 3, 4, 6)]
    bench = make(Reward(equal), algorithm={"name": "grpo", "max_rejections": 2}, iterations=1, fail=failed)
    (groups,) = bench.run()
    assert groups[1].id == "00000-0001.7" and bench.loop.figures(0)["rollout/rejected"] == 2 * 3


def test_without_rejections_equal_scores_stay(make: Callable[..., Bench]) -> None:
    bench = make(Reward(equal), algorithm={"name": "grpo"})
    bench.run()
    assert not bench.account.dropped


def test_failed_scores_after_a_resume_are_replaced_as_before_it(make: Callable[..., Bench]) -> None:
    """Group ids go on where they stopped; the tries of a place do not."""
    victim = PromptOrder(EXAMPLES, 5)[1].prompt.id
    bench = make(Reward(Moody({victim: 99})), redo=0)
    bench.loop.resume(0, (), {(0, 1): 7})
    taken = bench.run()
    assert taken[0][1].id == "00000-0001.8"
    assert taken[0][1].prompt.id == PromptOrder(EXAMPLES, 5)[12 + 1].prompt.id


def test_groups_kept_over_an_interruption_are_not_made_again(make: Callable[..., Bench]) -> None:
    kept = Group(
        "00002-0001.0",
        EXAMPLES[0].prompt,
        2,
        (Renderer().dataset_trajectory("00002-0001.0", 0, EXAMPLES[0].prompt, Candidate("x")),),
    )
    bench = make()
    bench.loop.resume(2, (kept,), {(2, 1): 1, (2, 0): 3})
    taken = bench.run(first=2)
    assert [g.id for g in taken[0]] == ["00002-0000.3", "00002-0001.0", "00002-0002.0"]
    assert taken[0][1] is kept
    assert len([kind for kind, _ in bench.log if kind == "submitted"]) == (2 + 3) * 2


def test_an_iteration_that_was_kept_whole_is_not_made_again(make: Callable[..., Bench]) -> None:
    """It is taken at once, maybe before the loop looks at what is missing."""
    ids = [f"00002-{slot:04d}.0" for slot in range(3)]
    prompt = EXAMPLES[0].prompt
    kept = [Group(name, prompt, 2, (Renderer().dataset_trajectory(name, 0, prompt, Candidate("x")),)) for name in ids]
    bench = make()
    bench.loop.resume(2, kept, {(2, slot): 1 for slot in range(3)})
    assert bench.run(first=2)[0] == kept
    assert [group for kind, group in bench.log if kind == "submitted" and group < "00003"] == []
    bench.account.check(ended=True)


def test_given_candidates_come_after_the_live_ones(make: Callable[..., Bench]) -> None:
    sources = (CandidateSource(source="live", count=2), CandidateSource(source="dataset", count=3))
    bench = make(candidates=sources, iterations=1)
    for group in bench.run()[0]:
        assert [t.index for t in group.trajectories] == [0, 1, 2]
        assert (group.trajectories[2].text, group.trajectories[2].logprobs) == ("a b", ())
        assert len(group.scores) == 3


def test_a_group_has_the_seeds_of_its_run_and_place_and_each_source_its_sampling(make: Callable[..., Bench]) -> None:
    hot, stage = SamplingConfig(temperature=1.5), SamplingConfig(max_tokens=5)
    sources = (CandidateSource(source="live", count=1), CandidateSource(source="live", count=1, sampling=hot))
    bench = make(candidates=sources, sampling=stage, iterations=2)
    bench.run()
    requests = {request.key: request for request in bench.pool.requests}
    for iteration in range(2):
        for slot in range(3):
            first, second = (requests[f"{iteration:05d}-{slot:04d}.0/{place}"] for place in range(2))
            prompt = bench.loop.order[iteration * 3 + slot].prompt.id
            assert first.seed == candidate_seed(5, iteration, slot, prompt, 0)
            assert second.seed == candidate_seed(5, iteration, slot, prompt, 1)
            assert (first.sampling, second.sampling) == (stage, SamplingConfig(max_tokens=5, temperature=1.5))


def test_op_k_is_four_diverse_beams_and_two_answers_of_the_data_set() -> None:
    stage = TrainStage(kind="train", algorithm={"name": "rrhf"}, model="m", candidates="OP-8")
    diverse = SamplingConfig(temperature=0.8, beams=BeamConfig(width=4, groups=4, penalty=1.0))
    assert live_draws(stage) == tuple(Draw(diverse, place) for place in range(4))
    assert [(source.source, source.count) for source in stage.candidate_sources] == [("live", 4), ("dataset", 2)]
    assert stage.candidate_sources[1].last  # rows of RRHF end with the answers that the data set provides
    assert (stage.renewal_steps, stage.candidates_per_prompt) == (8, 6)


def test_a_data_set_gives_at_most_the_answers_that_its_source_counts(make: Callable[..., Bench]) -> None:
    sources = (CandidateSource(source="live", count=2), CandidateSource(source="dataset", count=2))
    bench = make(candidates=sources, prompts=1, iterations=1)
    answers = tuple(Candidate(text) for text in ("one", "two", "three"))
    bench.loop.order = PromptOrder([replace(EXAMPLES[0], candidates=answers)], 5)
    [group] = bench.run()[0]
    assert [trajectory.text for trajectory in group.trajectories[2:]] == ["one", "two"]


@pytest.mark.parametrize("last", [True, False])
def test_a_data_set_gives_its_first_answers_or_its_last(make: Callable[..., Bench], last: bool) -> None:
    sources = (CandidateSource(source="live", count=2), CandidateSource(source="dataset", count=2, last=last))
    bench = make(candidates=sources, prompts=1, iterations=1)
    answers = tuple(Candidate(text) for text in ("sampled", "chosen", "rejected"))
    bench.loop.order = PromptOrder([replace(EXAMPLES[0], candidates=answers)], 5)
    [group] = bench.run()[0]
    expected = ["chosen", "rejected"] if last else ["sampled", "chosen"]
    assert [trajectory.text for trajectory in group.trajectories[2:]] == expected


def test_a_prompt_that_occurs_twice_has_different_candidates(make: Callable[..., Bench]) -> None:
    bench = make(prompts=60, iterations=1)  # of 50 prompts
    answers: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for group in bench.run()[0]:
        answers[group.prompt.id].append(tuple(token for t in group.trajectories for token in t.token_ids))
    twice = [pair for pair in answers.values() if len(pair) == 2]
    assert len(twice) == 10
    assert [first for first, second in twice if first == second] == []
    seeds = {request.seed for request in bench.pool.requests}
    assert len(seeds) == 60 * 2


def test_a_slot_that_draws_its_prompt_again_draws_other_candidates(make: Callable[..., Bench]) -> None:
    bench = make(fail=["00000-0001.0"], prompts=2, iterations=1)
    bench.loop.order = PromptOrder(EXAMPLES[:1], 5)
    bench.run()
    seeds = {request.key: request.seed for request in bench.pool.requests}
    assert len(seeds) == 3 * 2
    assert len(set(seeds.values())) == 3 * 2


def test_an_order_by_priority_sees_the_rewards_of_every_iteration_that_was_consumed(
    make: Callable[..., Bench],
) -> None:
    views: list[Sequence[Rewards]] = []

    def weigh(rewards: Sequence[Rewards]) -> list[float]:
        views.append(rewards)
        return [1.0] * len(rewards)

    bench = make(max_staleness=0)
    bench.loop.order = PriorityOrder(EXAMPLES[:3], 5, prompts=3, iterations=4, max_staleness=0, weigh=weigh)
    taken = bench.run()
    ids = [example.prompt.id for example in EXAMPLES[:3]]
    latest = [{group.prompt.id: tuple(score.value for score in group.scores) for group in groups} for groups in taken]
    assert views == [[latest[past][name] for name in ids] for past in range(3)]


def test_a_stuck_engine_is_named_by_what_is_missing(make: Callable[..., Bench]) -> None:
    bench = make(stuck=True, timeout=0.05)
    with pytest.raises(DeadlineError, match="iteration 0 has 0 of 3 groups after 0 s, 3 on the engines, 0 unscored"):
        bench.run()


def long_and_equal(group: Group) -> tuple[Score, ...]:
    """Two parts, of which the second fails at first; the actor gives no total."""
    return tuple(
        Score(None, None, (ScorePart("length", float(len(t.logprobs))), ScorePart("equal", 1.0)))
        for t in group.trajectories
    )


SOURCES = (
    RewardSource(source="rules:length", normalise=True),
    RewardSource(source="rules:exact", name="equal", weight=3.0),
)


def test_parts_are_journaled_and_combined_with_the_moments_of_all_iterations(make: Callable[..., Bench]) -> None:
    bench = make(Reward(long_and_equal), rewards=RewardCombiner(SOURCES, "weighted"))
    taken = bench.run()
    lengths: list[float] = []
    for groups in taken:
        own = [float(len(t.logprobs)) for group in groups for t in group.trajectories]
        lengths += own
        expected = [((x - mean(lengths)) / stdev(lengths) + 3.0) / 4.0 for x in own]
        values = [score.value for group in groups for score in group.scores]
        assert values == pytest.approx(expected)
    scored = [entry for entry in bench.journal.replay() if entry["kind"] == "scored"]
    assert [part["name"] for part in scored[0]["scores"][0]["parts"]] == ["length", "equal"]
    bench.account.check(ended=True)


def test_moments_are_restored_from_the_journal_bit_for_bit(make: Callable[..., Bench]) -> None:
    rewards = RewardCombiner(SOURCES, "weighted")
    bench = make(Reward(long_and_equal), rewards=rewards)
    taken = bench.run()
    restored = RewardCombiner(SOURCES, "weighted")
    again = [groups for _, groups in consumed_iterations(bench.journal, restored)]
    assert again == taken
    assert restored.total(taken[0][0]) == rewards.total(taken[0][0])
    assert restored.total(taken[0][0]) != taken[0][0]


def test_a_part_that_fails_makes_the_sample_absent_and_the_other_part_is_kept(make: Callable[..., Bench]) -> None:
    turns: Counter[str] = Counter()
    victim = PromptOrder(EXAMPLES, 5)[1].prompt.id

    def failing(group: Group) -> tuple[Score, ...]:
        turns[group.id] += 1
        absent = ScorePart("equal", None, "away")
        second = absent if turns[group.id] == 1 or group.prompt.id == victim else ScorePart("equal", 1.0)
        return (Score(None, None, (ScorePart("length", float(turns[group.id])), second)),) * 2

    bench = make(Reward(failing), redo=1, rewards=RewardCombiner(SOURCES, "mean"), iterations=1)
    (groups,) = bench.run()
    assert bench.account.dropped == {"00000-0001.0": "no score: equal: away"}
    assert {score.parts for group in groups for score in group.scores} == {
        (ScorePart("length", 1.0), ScorePart("equal", 1.0))
    }


@pytest.mark.parametrize(
    ("waiting", "actors", "shares"), [(10, 4, [3, 2, 2, 1, 1, 1]), (100, 2, [32, 32, 18, 9, 5, 2, 1, 1])]
)
def test_actors_share_the_queue_evenly_and_boundedly(
    waiting: int, actors: int, shares: list[int], tmp_path: Path
) -> None:
    """Each call leaves the others their share of what waits; one that is free again takes its share of the rest."""
    reward = Reward(lengths, replicas=actors)
    with closing(EventLog(tmp_path / "events.jsonl")) as events:
        loop = ScoringLoop(reward, redo=0, alone=False, events=events)  # type: ignore[arg-type]
        for number in range(waiting):
            loop.put(Group(str(number), EXAMPLES[0].prompt, 0, ()))
        settled: list[ScoredGroup] = []

        async def settle(scored: ScoredGroup) -> None:
            settled.append(scored)

        async def run() -> None:
            scoring = asyncio.ensure_future(loop.run(settle))
            while len(settled) < waiting:
                await asyncio.sleep(0)
            scoring.cancel()
            await asyncio.gather(scoring, return_exceptions=True)

        asyncio.run(run())
    assert [len(groups) for groups in reward.asked] == shares
    assert sorted(int(scored.group.id) for scored in settled) == list(range(waiting))


@pytest.mark.parametrize(
    ("patience", "alone", "calls"), [(60.0, False, [3]), (0.001, False, [1, 1, 1]), (60.0, True, [1, 1, 1])]
)
def test_groups_wait_for_others_while_engines_write(
    patience: float, alone: bool, calls: list[int], tmp_path: Path
) -> None:
    """The last group ends the wait of the others; without it they are scored once they have waited long enough."""
    reward = Reward(lengths)
    with closing(EventLog(tmp_path / "events.jsonl")) as events:
        loop = ScoringLoop(reward, redo=0, alone=alone, events=events, patience=patience)  # type: ignore[arg-type]
        scored: asyncio.Queue[ScoredGroup] = asyncio.Queue()

        async def run() -> None:
            task = asyncio.ensure_future(loop.run(scored.put))
            for number in range(3):
                loop.put(Group(str(number), EXAMPLES[0].prompt, 0, ()), others_follow=number < 2)
                await asyncio.sleep(0.05)
            for _ in range(3):
                await asyncio.wait_for(scored.get(), timeout=20.0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(run())
    assert [len(groups) for groups in reward.asked] == calls


def test_a_group_that_ends_its_iteration_waits_for_no_group_of_the_next_one(tmp_path: Path) -> None:
    """Both are put before an actor is free; the first one must not wait for what follows the second one."""
    reward = Reward(lengths)
    with closing(EventLog(tmp_path / "events.jsonl")) as events:
        loop = ScoringLoop(reward, redo=0, alone=False, events=events, patience=60.0)  # type: ignore[arg-type]
        scored: asyncio.Queue[ScoredGroup] = asyncio.Queue()

        async def run() -> None:
            loop.put(Group("last", EXAMPLES[0].prompt, 0, ()), others_follow=False)
            loop.put(Group("next", EXAMPLES[0].prompt, 1, ()), others_follow=True)
            task = asyncio.ensure_future(loop.run(scored.put))
            first = await asyncio.wait_for(scored.get(), timeout=20.0)
            assert first.group.id == "last"
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(run())


def test_each_source_of_candidates_is_drawn_by_its_own_sampling() -> None:
    own = CandidateSource(source="live", count=1, sampling={"temperature": 0.5})  # type: ignore[arg-type]
    sources = (CandidateSource(source="live", count=2), own)
    stage = TrainStage(
        kind="train",
        algorithm={"name": "rloo"},
        model="m",
        candidates=sources,
        sampling=SamplingConfig(temperature=0.9, max_tokens=7),
    )
    assert [(draw.sampling.temperature, draw.sampling.max_tokens) for draw in live_draws(stage)] == [
        (0.9, 7),
        (0.9, 7),
        (0.5, 7),
    ]
