"""Best-of-n with scorers that need no actor, in the place where stages choose their answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rayalign.config import BestOf, GenerateStage, LearnerConfig, LoadedJob
from rayalign.errors import InputError
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.inputs import Inputs
from rayalign.pipeline.kind import kind_of
from rayalign.pipeline.scoring import Chosen, choose, compare
from rayalign.scoring.sources import RewardSpec
from rayalign.types import Group, Prompt, Score, Segment, Trajectory
from tests.scoring.test_annotator import serving

Study = Callable[..., LoadedJob]


def vowels(prompt: Prompt, answer: str) -> float:
    if not answer:
        raise ValueError("an empty answer")
    return float(sum(answer.count(letter) for letter in "aeiou"))


def drawn(number: int, *texts: str) -> Group:
    trajectories = []
    for index, text in enumerate(texts):
        trajectories.append(Trajectory(str(number), index, (1, 2), (Segment(0, "template"),), (), "stop", text))
    return Group(str(number), Prompt(f"p{number}", (), {"reference": "7"}), 0, tuple(trajectories))


@pytest.fixture
def chosen(study: Study, tmp_path: Path) -> Callable[..., Chosen]:
    def choice(best_of: BestOf | None, *groups: Group) -> Chosen:
        loaded = study()
        stage = loaded.job.stages["draws"]
        assert isinstance(stage, GenerateStage)
        with RunContext(loaded, Inputs(loaded)) as context:
            return asyncio.run(choose(context, "draws", stage, str(tmp_path), best_of, groups))

    return choice


def answers(chosen: Chosen) -> dict[str, list[str]]:
    return {example.prompt.id: [candidate.text for candidate in example.candidates] for example in chosen.answers}


CODE = f"{__name__}:vowels"


def test_the_best_candidate_is_the_answer_and_all_are_kept(chosen: Callable[..., Chosen]) -> None:
    result = chosen(BestOf(n=3, reward=CODE), drawn(0, "b", "aa", "a"), drawn(1, "", "b", ""), drawn(2, "", "", ""))
    assert answers(result) == {"p0": ["aa"], "p1": ["b"]}  # nothing could be scored of the third prompt
    assert result.answers[0].candidates[0].score == 2.0
    assert [[c.score for c in example.candidates] for example in result.drawn] == [
        [0.0, 2.0, 1.0], [None, 0.0, None], [None, None, None]
    ]  # fmt: skip


def test_one_candidate_is_not_scored(chosen: Callable[..., Chosen]) -> None:
    groups = drawn(0, "b", "aa"), drawn(1, "", "b")
    alone, plain = chosen(BestOf(n=1, reward=CODE), *groups), chosen(None, *groups)
    assert answers(alone) == answers(plain) == {"p0": ["b", "aa"], "p1": ["", "b"]}
    assert alone == plain
    assert all(candidate.score is None for candidate in alone.answers[0].candidates)


def test_several_parts_choose_together_and_a_vote_is_a_reward(chosen: Callable[..., Chosen]) -> None:
    parts = BestOf.model_validate({"n": 3, "reward": [{"source": CODE}, {"source": "rules:numeric", "weight": 9.0}]})
    assert answers(chosen(parts, drawn(0, "aaaa", "7", "a"))) == {"p0": ["7"]}
    votes = BestOf(n=4, reward="rules:majority")
    assert answers(chosen(votes, drawn(0, "8", "it is 7", "7.0", "none"))) == {"p0": ["it is 7"]}


def of_words(prompt: Prompt, answer: str, *, word: str) -> float:
    return float(answer.split().count(word))


class Ranked:
    """A scorer of whole groups: the later a candidate stands, the better."""

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        return [tuple(Score(float(place)) for place in range(len(group.trajectories))) for group in groups]


@pytest.mark.parametrize(
    ("reward", "text"),
    [
        ("rules:numeric", "7"),
        ({"rules": {"kind": "length", "low": 3, "high": 9}}, "so a b"),
        ({"source": f"{__name__}:of_words", "settings": {"word": "so"}}, "so a b"),
        (f"{__name__}:Ranked", "eight nine"),
        ("ANNOTATOR", "so a b"),  # the stub's score is the number of words
        ("COMPARING", "so a b"),
        ([{"source": "ANNOTATOR", "name": "words"}, {"source": "rules:numeric", "weight": 9.0}], "7"),
    ],
)
def test_any_source_reranks(chosen: Callable[..., Chosen], reward: Any, text: str) -> None:
    with serving() as (address, _):
        text_of_job = json.dumps(reward).replace("COMPARING", address.replace("gold", "judge"))
        written = json.loads(text_of_job.replace("ANNOTATOR", address))
        best_of = BestOf.model_validate({"n": 3, "reward": written})
        assert answers(chosen(best_of, drawn(0, "7", "so a b", "eight nine"))) == {"p0": [text]}


def test_the_candidates_of_each_answer_vote_apart(chosen: Callable[..., Chosen]) -> None:
    votes = BestOf(n=3, reward="rules:majority")
    group = drawn(0, "7", "8", "8 it is", "7", "7", "so 7")  # of all six 7 would be the majority
    assert answers(chosen(votes, group)) == {"p0": ["8", "7"]}


@pytest.mark.parametrize(("combine", "text"), [(None, "aaaa"), ("weighted", "aaaa"), ("min", "so")])
def test_parts_are_combined_as_the_section_says(chosen: Callable[..., Chosen], combine: str | None, text: str) -> None:
    word = {"source": f"{__name__}:of_words", "settings": {"word": "so"}}
    parts = BestOf.model_validate({"n": 2, "reward": [{"source": CODE}, word], "combine": combine})
    assert answers(chosen(parts, drawn(0, "aaaa", "so"))) == {"p0": [text]}


def test_a_candidate_that_one_source_failed_to_score_is_not_chosen(chosen: Callable[..., Chosen]) -> None:
    parts = BestOf.model_validate({"n": 2, "reward": [CODE, {"rules": {"kind": "length", "high": 9}}]})
    result = chosen(parts, drawn(0, "", "b"))  # an empty answer has the length, and no vowels to count
    assert answers(result) == {"p0": ["b"]}
    assert [candidate.score for candidate in result.drawn[0].candidates] == [None, 0.5]


def test_the_plan_has_the_reward_only_where_it_chooses(study: Study) -> None:
    def roles(choice: str) -> list[str]:
        loaded = study(f"stages.draws.best_of={choice}")
        return [need.role for need in kind_of(loaded.job.stages["draws"]).roles(loaded.job)]

    assert roles("{n: 4, reward: someone/scorer}") == ["generator", "reward"]
    assert roles("{n: 1, reward: someone/scorer}") == ["generator"]
    assert roles("{n: 4, reward: 'rules:majority'}") == ["generator"]


def test_parts_of_code_and_rules_are_combined(chosen: Callable[..., Chosen]) -> None:
    length = {"rules": {"kind": "length", "low": 1, "high": 1}}
    parts = {"n": 2, "reward": [{"source": CODE, "name": "vowels"}, length]}
    group = drawn(0, "aaaa b", "a")  # 4 vowels and a length that is wrong, or 1 vowel and the right length
    assert answers(chosen(BestOf.model_validate(parts), group)) == {"p0": ["aaaa b"]}
    assert answers(chosen(BestOf.model_validate({**parts, "combine": "min"}), group)) == {"p0": ["a"]}


def test_the_candidates_of_one_answer_vote_among_themselves(study: Study, chosen: Callable[..., Chosen]) -> None:
    votes = BestOf(n=3, reward="rules:majority")
    result = chosen(votes, drawn(0, "7", "8", "8", "7", "7", "9"))
    assert answers(result) == {"p0": ["8", "7"]}  # over all six, 7 would win the first answer's vote too
    assert [c.score for c in result.drawn[0].candidates] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3, 1 / 3])


class Started(Exception):
    """Reward actors would start now."""


@pytest.fixture
def specs(monkeypatch: pytest.MonkeyPatch) -> list[RewardSpec]:
    """What reward actors would be made from."""
    started: list[RewardSpec] = []

    async def start_roles(context: RunContext, name: str, specs: dict[str, RewardSpec]) -> None:
        started.append(specs["reward"])
        raise Started

    monkeypatch.setattr(RunContext, "start_roles", start_roles)
    monkeypatch.setattr(RunContext, "session", lambda context: None)
    return started


def test_reward_actors_have_the_sources_the_precision_and_the_writer_of_the_answers(
    study: Study, specs: list[RewardSpec]
) -> None:
    loaded = study("stages.draws.precision=bf16", "cluster.call_timeout=77")
    stage: Any = loaded.job.stages["draws"]
    best_of = BestOf.model_validate({"n": 2, "reward": [{"source": "stage:rm", "name": "help"}, {"source": CODE}]})
    with RunContext(loaded, Inputs(loaded)) as context, pytest.raises(Started):
        asyncio.run(choose(context, "draws", stage, "stage:sft", best_of, [drawn(0, "a", "b")]))
    (spec,) = specs
    assert [Path(spec.policy).parts[-2], Path(spec.sources[0].source).parts[-2]] == ["sft", "rm"]
    assert [source.label for source in spec.sources] == ["help", "vowels"] and spec.named
    assert (spec.config.precision, spec.timeout) == ("bf16", 77.0)


def test_a_pairwise_model_compares_by_the_reader_of_its_stage(
    study: Study, specs: list[RewardSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = LearnerConfig(precision="bf16")
    loaded = study()
    with RunContext(loaded, Inputs(loaded)) as context:
        monkeypatch.setattr("rayalign.pipeline.scoring.reads_pairs", lambda folder: True)
        with pytest.raises(Started):
            asyncio.run(compare(context, "verdicts", "someone/pairwise", reader, []))
        monkeypatch.setattr("rayalign.pipeline.scoring.reads_pairs", lambda folder: False)
        with pytest.raises(InputError, match="someone/pairwise scores single answers; name a pairwise reward model"):
            asyncio.run(compare(context, "verdicts", "someone/pairwise", reader, []))
    (spec,) = specs
    assert spec.config == reader and not spec.named
    assert (spec.sources[0].source, spec.policy) == ("someone/pairwise", "someone/pairwise")
