"""An evaluation from its draws to its records and figures, over a pool that writes what it is asked for."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayalign.actors.hosted import FrozenSpec
from rayalign.cluster.wires import Wires
from rayalign.config import EvaluateStage, LearnerConfig
from rayalign.data.chat import load_tokenizer
from rayalign.pipeline.figures import evaluate
from rayalign.rollout.base import candidate_seed
from rayalign.scoring.sources import RewardSpec
from rayalign.statistics.best_of_n import best_of_n_kl
from rayalign.storage.records import read_jsonl
from rayalign.types import Example, Group, Message, Prompt, Score
from tests.pipeline.test_drawing import Context
from tests.scoring.test_annotator import serving

LAST_DIGIT = "tests.pipeline.test_generate:last_digit"
PROMPTS = [Example(Prompt(f"p{number}", (Message("user", "who are you ?"),)), ()) for number in range(40)]
Row = dict[str, Any]


class FirstDigits:
    """An annotator to whom `please 2` is better than any other answer on the first 20 prompts, `please 3` on 30."""

    def compare(self, pairs: Sequence[tuple[Prompt, str, str]], *, seed: int) -> list[float]:
        verdicts = []
        for prompt, _, ours in pairs:
            wins = int(prompt.id.removeprefix("p")) < 10 * int(ours[-1])
            verdicts.append(2.0 if wins else 1.0)
        return verdicts

    def close(self) -> None:
        """It holds nothing."""


class Frozen:
    """The only actor of a frozen role: each token has probability 1/2, and each answer the score 5."""

    spread = False
    wires = Wires()

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self.mean_logprobs = SimpleNamespace(remote=self._mean_logprobs)
        self.score = SimpleNamespace(remote=self._score)

    async def steady(self, number: int, call: Callable[[Frozen], Any]) -> Any:
        return call(self)

    async def first(self, call: Callable[[Frozen], Any]) -> Any:
        return call(self)

    def _mean_logprobs(self, groups: Sequence[Group], pad_id: int) -> list[float]:
        self.groups += groups
        return [math.log(0.5)] * len(groups)

    def __len__(self) -> int:
        return 1

    def _score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        self.groups += groups
        return [tuple(Score(5.0 + place) for place in range(len(group.trajectories))) for group in groups]


class Roles(dict[str, Frozen]):
    """The roles of a stage."""

    async def __aenter__(self) -> Roles:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing runs."""


class EvaluateContext(Context):
    """A run as far as an evaluation sees it; all prompts fit but the last."""

    specs: dict[str, Any] | None = None
    """of the roles that were started last"""
    address = ""
    """of the annotator"""
    frozen = Frozen()

    @property
    def inputs(self) -> Any:
        return SimpleNamespace(prompts=lambda name: PROMPTS, fitting=lambda name, model: PROMPTS[:-1])

    def model(self, reference: str) -> str:
        if reference.startswith("annotator:"):
            return self.address
        self.loaded = reference
        return str(self.earlier.with_name("reader")) if reference == "reader" else self.folder

    def annotator(self, name: str) -> FirstDigits:
        return FirstDigits()

    def session(self) -> None:
        """No actor is real."""

    @contextmanager
    def starting(self, what: str) -> Iterator[None]:
        yield

    async def start_roles(self, name: str, specs: dict[str, Any]) -> Roles:
        self.specs, self.frozen = specs, Frozen()
        return Roles(dict.fromkeys(specs, self.frozen))


@pytest.fixture
def context(model: str, tmp_path: Path) -> EvaluateContext:
    (tmp_path / "reader").symlink_to(model)
    return EvaluateContext(model, tmp_path / "rows.jsonl", seed=7)


def evaluated(context: EvaluateContext, **settings: Any) -> tuple[list[Row], dict[tuple[str, str], Row]]:
    """The records, and the results by name and metric."""
    models = {"sft": "please", "best": "please"}
    best_of = {"best": {"n": 3, "reward": LAST_DIGIT}}
    stage = {"kind": "evaluate", "models": models, "best_of": best_of, "metric": "reward", "reward": LAST_DIGIT}
    section = EvaluateStage.model_validate(stage | settings)
    outcome = asyncio.run(evaluate(context, "test", section))  # type: ignore[arg-type]
    results = {(row["name"], row["metric"]): row for row in outcome["results"]}
    return list(read_jsonl(context.stage_folder("test") / "records.jsonl")), results


def test_best_of_n_is_chosen_from_draws_of_its_own(context: EvaluateContext) -> None:
    records, results = evaluated(context)
    assert {row["answer"] for row in records if row["model"] == "sft"} == {"please 0"}
    best = [row for row in records if row["model"] == "best"]
    candidates = [{"answer": f"please {place}", "score": float(place)} for place in range(3)]
    assert [(row["answer"], row["value"], row["candidates"]) for row in best] == [("please 2", 2.0, candidates)] * 39
    assert not any("candidates" in row for row in records if row["model"] == "sft")
    assert results["best", "reward"]["mean"] == 2.0 and results["sft", "reward"]["mean"] == 0.0
    assert results["best", "win_rate_by_reward_against_sft"]["mean"] == 100.0
    assert results["best", "best_of_n_kl"]["mean"] == pytest.approx(best_of_n_kl(3))
    assert results["best", "win_rate_bound_against_sft"]["mean"] == 75.0
    seeds = [request.seed for request in context.pools[0].requests if request.key.startswith("0/")]
    seeds += [request.seed for request in context.pools[1].requests if request.key.startswith("0/")]
    # the model's own answer is at place 0, and is none of the candidates
    assert seeds == [candidate_seed(7, 0, 0, "p0", place) for place in range(4)]


def test_answers_are_described_as_they_were_written(context: EvaluateContext) -> None:
    _, results = evaluated(context)
    tokens = len(load_tokenizer(context.folder)("please 0", add_special_tokens=False).input_ids) + 1
    for name in ("sft", "best"):
        assert results[name, "answer_tokens"]["mean"] == tokens  # with the end


def test_judges_stand_beside_the_bound_that_best_of_n_cannot_exceed(
    context: EvaluateContext, caplog: pytest.LogCaptureFixture
) -> None:
    best_of = {"two": {"n": 2, "reward": LAST_DIGIT}, "best": {"n": 5, "reward": LAST_DIGIT}}
    models = {"sft": "please", "two": "please", "best": "please"}
    _, results = evaluated(context, models=models, best_of=best_of, annotator=["pool", "gold"])
    rates = [results[name, "win_rate_by_pool_against_sft"]["mean"] for name in ("two", "best")]
    assert rates == pytest.approx([100 * 10 / 39, 100.0])
    assert results["judges", "rank_correlation_of_pool_and_gold_against_sft"]["mean"] == 1.0
    assert "best: win_rate_by_pool_against_sft is 100 [91.03, 100], and best-of-n cannot exceed 83.33" in caplog.text
    assert "two: win_rate_by_pool_against_sft" not in caplog.text


def test_an_annotator_gives_the_metric_within_the_deadline_of_a_call(context: EvaluateContext) -> None:
    with serving() as (address, _):
        context.address = address
        records, _ = evaluated(context, reward="annotator:gold", best_of={})
    assert {row["value"] for row in records} == {2.0}  # its score is the number of words


def test_perplexity_is_that_of_the_named_model_alone(context: EvaluateContext) -> None:
    _, results = evaluated(context, perplexity="reader", best_of={}, precision="bf16")
    folder = context.model("reader")
    config = LearnerConfig(precision="bf16")
    assert context.specs == {"reference": FrozenSpec(folder, config, 1.0, folder, context.call_timeout)}
    assert results["sft", "perplexity"]["mean"] == pytest.approx(2.0)
    assert {group.trajectories[0].text for group in context.frozen.groups} == {"please 0"}


def test_a_reward_model_is_hosted_as_the_stages_reader(context: EvaluateContext) -> None:
    records, _ = evaluated(context, reward="reader", best_of={}, precision="bf16")
    assert context.specs is not None
    spec = context.specs["reward"]
    assert isinstance(spec, RewardSpec)
    assert [source.source for source in spec.sources] == [context.model("reader")]
    assert (spec.config.precision, spec.policy, spec.timeout) == ("bf16", context.model("reader"), 60.0)
    assert {row["value"] for row in records} == {5.0}


def test_the_reward_model_of_best_of_n_is_hosted_as_the_stages_reader(context: EvaluateContext) -> None:
    best_of = {"best": {"n": 3, "reward": [{"source": "reader", "name": "liked"}, {"source": "rules:length"}]}}
    evaluated(context, best_of=best_of, precision="bf16")  # the actor's scores have no parts, so `best` has no answer
    assert context.specs is not None
    spec = context.specs["reward"]
    sources = [(source.source, source.label) for source in spec.sources]
    assert sources == [(context.model("reader"), "liked"), ("rules:length", "length")]
    # its tokens are those of the model that wrote
    assert (spec.config.precision, spec.policy, spec.timeout, spec.named) == ("bf16", context.folder, 60.0, True)
    alone = {"best": {"n": 3, "reward": "reader"}}
    records, _ = evaluated(context, best_of=alone)
    assert not context.specs["reward"].named
    assert {row["answer"] for row in records if row["model"] == "best"} == {"please 2"}
    written = [[trajectory.text for trajectory in group.trajectories] for group in context.frozen.groups]
    assert written == [["please 0", "please 1", "please 2"]] * 39
