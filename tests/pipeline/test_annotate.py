"""Who compares the answers of an annotate stage, with which settings, and what becomes of the verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rayalign.config import JudgeConfig, LearnerConfig, LoadedJob, RoleConfig
from rayalign.data.pairs import Question
from rayalign.pipeline import annotate
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.inputs import Inputs
from rayalign.pipeline.kind import kind_of
from rayalign.storage.records import decode, read_jsonl, write_jsonl
from rayalign.types import Candidate, Comparison, Example, Message, Prompt, Score

Study = Callable[..., LoadedJob]
Asked = list[dict[str, Any]]
PAIRWISE = "stages.verdicts.pairwise=someone/pairwise", "stages.verdicts.precision=bf16"


def drawn(prompts: int, *texts: str) -> list[Example]:
    candidates = tuple(Candidate(text, "m") for text in texts)
    return [Example(Prompt(f"p{i}", (Message("user", str(i)),)), candidates) for i in range(prompts)]


def compared(loaded: LoadedJob, examples: Sequence[Example]) -> tuple[list[Comparison], dict[str, Any]]:
    """The comparisons that the stage wrote, and its outcome."""
    with RunContext(loaded, Inputs(loaded)) as context:
        context.output("stage:draws").parent.mkdir(parents=True)
        write_jsonl(context.output("stage:draws"), examples)
        context.stage_folder("verdicts").mkdir(parents=True)
        outcome = kind_of(loaded.job.stages["verdicts"]).run(context, "verdicts")
        rows = read_jsonl(context.stage_folder("verdicts") / "records.jsonl")
        return [decode(Comparison, row) for row in rows], outcome


def test_a_pairwise_models_probability_becomes_a_preference(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Asked = []

    async def compare(
        context: RunContext, name: str, model: str, reader: LearnerConfig, questions: Sequence[Question]
    ) -> list[Score]:
        asked.append({"name": name, "model": model, "reader": reader})
        good = [Score(0.9 if question.first.text == "good" else 0.1) for question in questions]
        return [*good[:-1], Score(None, "too long")]

    monkeypatch.setattr("rayalign.pipeline.scoring.compare", compare)
    comparisons, outcome = compared(study(*PAIRWISE), drawn(5, "good", "bad"))
    (call,) = asked
    assert (call["name"], call["model"], call["reader"].precision) == ("verdicts", "someone/pairwise", "bf16")
    preferences = [row.preference for row in comparisons]
    # 1 is the first answer for sure, and 2 the second
    expected = [1.1 if row.first.text == "good" else 1.9 for row in comparisons[:-1]]
    assert preferences == [*map(pytest.approx, expected), None]
    assert {row.annotator for row in comparisons} == {"someone/pairwise"}
    assert outcome == {"rows": 5, "without_verdict": 1}


def test_a_pairwise_model_is_hosted_and_read_as_the_stage_says(study: Study) -> None:
    loaded = study(*PAIRWISE, "stages.verdicts.roles.reward.actors=3")
    (need,) = kind_of(loaded.job.stages["verdicts"]).roles(loaded.job)
    assert (need.role, need.model, need.host) == ("reward", "someone/pairwise", RoleConfig(actors=3))
    assert need.learner.precision == "bf16"


class Judge:
    """Prefers the first answer, and keeps what it is made from."""

    made: Asked = []

    def __init__(self, config: JudgeConfig) -> None:
        self._config = config

    def compare(self, pairs: Sequence[Any], *, seed: int) -> list[float]:
        self.made.append({"config": self._config, "seed": seed})
        return [1.0] * len(pairs)


def test_a_judge_in_the_process_has_its_settings_and_the_jobs_seed(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotate, "RubricJudge", Judge)
    monkeypatch.setattr(Judge, "made", [])
    comparisons, _ = compared(study("stages.verdicts.judge.flip=0.25", "seed=9"), drawn(2, "a", "b"))
    assert Judge.made == [{"config": JudgeConfig(flip=0.25), "seed": 9}]
    assert {(row.annotator, row.preference) for row in comparisons} == {("rubric", 1.0)}


class Service:
    """An annotator of the service that prefers the second answer."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.flips: list[float] = []

    def compare(self, questions: Sequence[Any], *, seed: int, flip: float) -> list[float]:
        self.seeds.append(seed)
        self.flips.append(flip)
        return [2.0] * len(questions)

    def close(self) -> None:
        pass


def test_an_annotator_of_the_service_is_asked_by_its_name_with_the_jobs_seed(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service()
    named: list[str] = []
    monkeypatch.setattr(RunContext, "annotator", lambda context, name: named.append(name) or service)
    monkeypatch.setattr("rayalign.annotator.asking.connect.announce", lambda *arguments, **settings: None)
    comparisons, _ = compared(study("stages.verdicts.annotator=gold", "seed=9"), drawn(2, "a", "b"))
    assert (named, service.seeds) == (["gold"], [9])
    assert service.flips == [0.0]
    assert {(row.annotator, row.preference) for row in comparisons} == {("gold", 2.0)}


def test_the_share_of_flips_reaches_the_annotator_and_its_estimate(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service()
    estimated: Asked = []
    monkeypatch.setattr(RunContext, "annotator", lambda context, name: service)
    monkeypatch.setattr(
        "rayalign.annotator.asking.connect.announce", lambda *arguments, **options: estimated.append(options)
    )
    compared(study("stages.verdicts.annotator=gold", "stages.verdicts.flip=0.25", "seed=9"), drawn(2, "a", "b"))
    assert (service.flips, estimated) == ([0.25], [{"seed": 9, "flip": 0.25}])


@pytest.mark.parametrize("override", ["stages.verdicts.judge.flip=0.1", "stages.verdicts.pairwise=someone/pairwise"])
def test_only_an_annotators_verdicts_are_flipped(study: Study, override: str) -> None:
    stage = study("stages.verdicts.flip=0.25", override).job.stages["verdicts"]
    assert [key for key, _ in kind_of(stage).problems()] == ["flip"]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that are not of the embedded world have a judge too."""
    monkeypatch.setattr(annotate, "RubricJudge", Judge)


def orders(loaded: LoadedJob, prompts: int = 8) -> list[tuple[str, str, str]]:
    comparisons, _ = compared(loaded, drawn(prompts, "a", "b", "c"))
    return [(row.prompt.id, row.first.text, row.second.text) for row in comparisons]


@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize(("pairs", "rows"), [(1, 8), (2, 16), (9, 24)])
def test_so_many_different_pairs_of_each_group_are_compared(study: Study, pairs: int, rows: int) -> None:
    drawn_pairs = orders(study(f"stages.verdicts.pairs={pairs}"))
    assert len(drawn_pairs) == rows
    assert len({(prompt, frozenset((first, second))) for prompt, first, second in drawn_pairs}) == rows


@pytest.mark.usefixtures("judged")
def test_the_seed_decides_which_answer_comes_first(study: Study) -> None:
    first = orders(study("name=one"))
    assert first == orders(study("name=two")) != orders(study("name=three", "seed=1"))
