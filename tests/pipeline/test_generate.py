"""Best-of-n of a generate stage: what it writes, and the figures beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rayalign.config import GenerateStage
from rayalign.pipeline.generate import GenerateKind
from rayalign.statistics.best_of_n import best_of_n_kl, estimated_kl
from rayalign.storage.records import decode, read_jsonl, write_jsonl
from rayalign.types import Example, Prompt
from tests.pipeline.test_drawing import Context


def last_digit(prompt: Prompt, answer: str) -> float:
    """Of what the pool of `Context` writes, such as `please 3`; the data set's answers have 0.5."""
    return float(answer[-1]) if answer[-1].isdigit() else 0.5


def second_prompt_only(prompt: Prompt, answer: str) -> float:
    if prompt.id == "a":
        raise ValueError("no score")
    return last_digit(prompt, answer)


@pytest.fixture
def context(model: str, tmp_path: Path) -> Context:
    write_jsonl(tmp_path / "rows.jsonl", [])
    return Context(model, tmp_path / "rows.jsonl")


def run(context: Context, **settings: Any) -> dict[str, Any]:
    stage = GenerateStage.model_validate({"kind": "generate", "model": "please", **settings})
    return GenerateKind(stage).run(context, "answers")  # type: ignore[arg-type]


def written(context: Context, file: str) -> list[list[tuple[str, str, float | None]]]:
    """Text, source and score of each candidate, for each prompt."""
    rows = [decode(Example, row) for row in read_jsonl(context.stage_folder("answers") / file)]
    return [[(own.text, own.source, own.score) for own in row.candidates] for row in rows]


def test_each_answer_is_the_best_of_its_own_candidates(context: Context) -> None:
    figures = run(context, count=2, best_of={"n": 2, "reward": f"{__name__}:last_digit"})
    candidates = [(f"please {place}", "please", float(place)) for place in range(4)]
    assert written(context, "records.jsonl") == [[candidates[1], candidates[3]]] * 2
    assert written(context, "drawn.jsonl") == [candidates] * 2
    assert written(context, "extremes.jsonl") == [[candidates[3], candidates[0]]] * 2
    assert (figures["rows"], figures["candidates"]) == (2, 8)
    assert figures["sample_reward"] == pytest.approx({"mean": 1.5, "deviation": 1.25**0.5, "maximum": 3.0})
    assert figures["estimated_kl"] == pytest.approx(best_of_n_kl(2))
    assert figures["kl_by_scores"]["mean"] == pytest.approx(estimated_kl([0.0, 1.0, 2.0, 3.0], 2))
    assert (figures["without_score"], figures["candidates_without_score"]) == (0, 0)


def test_a_prompt_whose_candidates_have_no_score_is_counted(context: Context) -> None:
    figures = run(context, count=1, best_of={"n": 3, "reward": f"{__name__}:second_prompt_only"})
    assert written(context, "records.jsonl") == [[("please 2", "please", 2.0)]]
    assert (figures["rows"], figures["without_score"], figures["candidates_without_score"]) == (1, 1, 3)
    assert figures["sample_reward"]["mean"] == 1.0
    assert [[score for *_, score in row] for row in written(context, "drawn.jsonl")] == [[None] * 3, [0.0, 1.0, 2.0]]


def test_the_best_candidate_of_several_sources_keeps_its_provenance(context: Context) -> None:
    sources = [{"count": 2}, {"source": "dataset", "count": 2, "name": "people"}]
    figures = run(context, sources=sources, best_of={"reward": f"{__name__}:last_digit"})
    own = [("please 0", "please", 0.0), ("please 1", "please", 1.0)]
    published = [("published one", "people", 0.5), ("published two", "people", 0.5), ("published three", "people", 0.5)]
    assert written(context, "records.jsonl") == [[own[1]], [own[1]]]
    assert written(context, "drawn.jsonl") == [[*own, *published[:2]], [*own, published[2]]]
    assert (figures["rows"], figures["candidates"]) == (2, 7)
    assert "estimated_kl" not in figures and "kl_by_scores" not in figures  # no draws of one distribution
