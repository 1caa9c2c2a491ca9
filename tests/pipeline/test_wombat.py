"""Wombat in small: answers graded by a (fake) language model over HTTP, those without grades left out, and ranked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rayalign.annotator.service_file import load_service
from rayalign.config import BestOf, GenerateStage, LoadedJob, RewardSource, ServiceConfig
from rayalign.pipeline.best_of_figures import scores_of
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.figures import verified
from rayalign.pipeline.generate import sample_reward
from rayalign.pipeline.inputs import Inputs
from rayalign.pipeline.scoring import choose
from rayalign.types import Candidate, Group, Message, Prompt, Segment, Trajectory
from tests.annotator.served import serving
from tests.annotator.stub_endpoint import Stub

SOURCES = ["chat", "chat", "text-davinci-003", "base", "alpaca"]
FILE = Path(__file__).parents[2] / "clusters" / "wombat.yaml"


@pytest.fixture
def wombat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Stub]]:
    """The address of the shipped annotator, with a fake model behind it."""
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    settings: dict[str, Any] = load_service(FILE).model_dump()
    settings["cache"] = f"sqlite:///{tmp_path / 'verdicts.db'}"
    with Stub() as stub:
        settings["annotators"]["wombat"]["judge"]["base_url"] = stub.url
        with serving(ServiceConfig.model_validate(settings)) as url:
            yield f"{url}#wombat", stub


def drawn(number: int, *texts: str) -> Group:
    segments = (Segment(0, "template"),)
    answers = [Trajectory(str(number), place, (1, 2), segments, (), "stop", text) for place, text in enumerate(texts)]
    return Group(str(number), Prompt(f"p{number}", (Message("user", f"question {number}"),)), 0, tuple(answers))


def test_candidates_are_graded_together_and_failures_are_absent(
    wombat: tuple[str, Stub], study: Callable[..., LoadedJob], caplog: pytest.LogCaptureFixture
) -> None:
    groups = [
        drawn(0, "one", "one two", "unreadable", "one two three", "one"),
        drawn(1, *["unreadable"] * 5),
        drawn(2, "a b c d e f", "a", "a b c d", "a b", "a b c"),
    ]
    address, stub = wombat
    loaded = study()
    stage = loaded.job.stages["draws"]
    assert isinstance(stage, GenerateStage)
    with RunContext(loaded, Inputs(loaded)) as context:
        choice = BestOf(reward=address)
        chosen = asyncio.run(choose(context, "draws", stage, "m", choice, groups, SOURCES))
    scores = [[candidate.score for candidate in example.candidates] for example in chosen.drawn]
    assert scores == [[4.0, 8.0, None, 12.0, 4.0], [None] * 5, [20.0, 4.0, 16.0, 8.0, 12.0]]
    assert [example.candidates[0].text for example in chosen.answers] == ["one two three", "a b c d e f"]
    assert [candidate.source for candidate in chosen.drawn[0].candidates] == SOURCES
    assert sample_reward([scores_of(example) for example in chosen.drawn])["maximum"] == 16.0
    assert stub.report()["requests"] == 3  # one for each prompt
    assert "6 of 15 candidates have no score; 5: no grades in" in caplog.text


def test_the_grades_are_a_metric_of_models(wombat: tuple[str, Stub]) -> None:
    prompts = {"p": drawn(0, "a").prompt}
    answers = {"short": {"p": Candidate("a")}, "long": {"p": Candidate("a b c")}, "odd": {"p": Candidate("unreadable")}}
    values = verified(RewardSource(source=wombat[0]), prompts, answers, 60.0)
    assert values == {"short": {"p": 4.0}, "long": {"p": 12.0}, "odd": {}}
