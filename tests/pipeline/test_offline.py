"""What an offline stage trains on, and what it reports at its end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rayalign.algorithms.base import load
from rayalign.config import LoadedJob, TrainStage
from rayalign.data.collate import collate_examples, encode_examples
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.data.rows import RowFile, write_rows
from rayalign.errors import InputError
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.inputs import Inputs
from rayalign.pipeline.offline import heldout_results, pair_context, read_examples, taken_answers, training_rows
from rayalign.scoring.selection import extremes
from rayalign.storage.records import write_jsonl
from rayalign.types import Candidate, Comparison, Example, Message, Outputs, Prompt

Study = Callable[..., LoadedJob]
RANKINGS = [
    {"query": "p", "responses": ["a", "b", "c"], "scores": [1, 3, 2]},
    {"query": "q", "responses": ["d", "e"], "scores": [0.5, 0.25]},
]
UNPAIRED = [
    {"prompt": "p", "answer": "a", "desirable": True},
    {"prompt": "q", "answer": "d", "desirable": False},
]


def read(study: Study, algorithm: str, **source: Any) -> list[Example]:
    """The rows that a stage trains on, of the verdicts or of a file."""
    loaded = study()
    stage = TrainStage.model_validate({"kind": "train", "algorithm": {"name": algorithm}, "model": "m", **source})
    with RunContext(loaded, Inputs(loaded)) as context:
        if stage.examples is not None:
            write_jsonl(context.output(stage.examples), verdicts())
        return list(read_examples(context, stage))


def texts(example: Example) -> str:
    return "".join(candidate.text for candidate in example.candidates)


def scores(example: Example) -> list[float | None]:
    return [candidate.score for candidate in example.candidates]


def verdicts() -> list[Comparison]:
    prompts = {name: Prompt(name, (Message("user", name),)) for name in "pq"}
    rows = (("p", "a", "b", 2.0), ("p", "b", "c", 1.25), ("q", "d", "e", 1.0))
    return [Comparison(prompts[name], Candidate(x), Candidate(y), verdict, "j") for name, x, y, verdict in rows]


def test_verdicts_are_rankings_or_pairs_or_single_answers(study: Study) -> None:
    rankings, pairs, answers = (read(study, name, examples="stage:verdicts") for name in ("rrhf", "sppo", "kto"))
    assert [(texts(row), scores(row)) for row in rankings] == [("abc", [0, 0.875, 0.25]), ("de", [1, 0])]
    assert [(texts(row), scores(row), row.preference) for row in pairs] == [
        ("ba", [0.75, 0.25], 1.0),
        ("bc", [0.75, 0.375], 0.75),
        ("de", [0.75, 0.25], 1.0),
    ]
    # each with an answer to the other prompt
    expected = [("bd", 1.0), ("ae", 0.0), ("bd", 0.75), ("ce", 0.25), ("db", 1.0), ("ea", 0.0)]
    assert [(texts(row), row.desirable) for row in answers] == expected


def chosen_stage(answers: str | None) -> TrainStage:
    settings = {"kind": "train", "algorithm": {"name": "sft"}, "model": "m", "examples": "stage:verdicts"}
    return TrainStage.model_validate({**settings, "answers": answers})


@pytest.mark.parametrize(
    ("answers", "taken"),
    [
        ("chosen", [("b", [0.75]), ("b", [0.75]), ("d", [0.75])]),
        ("conditioned", [("ba", [1.0, 0.0]), ("bc", [1.0, 0.0]), ("de", [1.0, 0.0])]),
        (None, [("ba", [0.75, 0.25]), ("bc", [0.75, 0.375]), ("de", [0.75, 0.25])]),
    ],
)
def test_a_stage_takes_the_better_answers_alone_or_both(
    study: Study, answers: str | None, taken: list[tuple[str, list[float]]]
) -> None:
    pairs = read(study, "sppo", examples="stage:verdicts")
    assert [(texts(row), scores(row)) for row in taken_answers(chosen_stage(answers), pairs)] == taken


def test_supervised_learning_on_verdicts_has_a_row_of_each_better_answer(study: Study) -> None:
    loaded, tokenizer = study(), build_tokenizer()
    with RunContext(loaded, Inputs(loaded)) as context:
        write_jsonl(context.output("stage:verdicts"), worded_verdicts("sunday", "monday"))
        rows = list(training_rows(context, "sft", chosen_stage("chosen"), tokenizer, {}))
    assert [row.prompt for row in rows] == ["p0", "p1"]
    decoded = [tokenizer.decode(row.token_ids) for row in rows]
    assert all("winter" in text and day in text for text, day in zip(decoded, ("sunday", "monday"), strict=True))
    assert not any("grey" in text for text in decoded)


def worded_verdicts(*questions: str) -> list[Comparison]:
    """The answer `winter` is better than `grey`, to a prompt of each question."""
    rows = []
    for number, question in enumerate(questions):
        prompt = Prompt(f"p{number}", (Message("user", question),))
        rows.append(Comparison(prompt, Candidate("grey"), Candidate("winter"), 2.0, "j"))
    return rows


def reward_rows(study: Study, verdicts: list[Comparison]) -> tuple[int, dict[str, Any]]:
    """How many rows a reward model trains on, and the figures of its stage."""
    source = {"model": "stage:sft", "examples": "stage:verdicts", "near_duplicates": 0.8, "holdout": 0.5}
    stage = TrainStage.model_validate({"kind": "train", "algorithm": {"name": "reward"}, **source})
    loaded, figures = study(), dict[str, Any]()
    with RunContext(loaded, Inputs(loaded)) as context:
        write_jsonl(context.output("stage:verdicts"), verdicts)
        rows = list(training_rows(context, "rm", stage, build_tokenizer(), figures))
    return len(rows), figures


def test_a_reward_model_trains_on_distinct_rows_and_counts_the_others(study: Study) -> None:
    count, figures = reward_rows(study, worded_verdicts("sunday", "monday"))
    again, counted = reward_rows(study, worded_verdicts("sunday", "monday", "Sunday", "monday", "monday"))
    assert again == count
    assert figures["duplicates"] == {"exact": 0, "near": 0}
    assert counted["duplicates"] == {"exact": 3, "near": 0}
    assert counted["leaks"] == {"prompts": 0, "exact": 0, "near": 0, "rows": count // 2}


def test_a_reward_model_whose_held_out_answers_are_trained_on_is_refused(study: Study) -> None:
    # The pairs differ in one answer each, so they are no duplicates; the other answer stands on both sides.
    prompts = [Prompt(f"p{number}", (Message("user", "sunday"),)) for number in range(2)]
    verdicts = [
        Comparison(prompts[0], Candidate("grey"), Candidate("winter"), 2.0, "j"),
        Comparison(prompts[1], Candidate("river"), Candidate("winter"), 2.0, "j"),
    ]
    with pytest.raises(InputError, match="the held-out rows leak: 0 prompts are on both sides, 1 of 2 answers"):
        reward_rows(study, verdicts)


def source_of(tmp_path: Path, rows: list[dict[str, Any]], form: str) -> dict[str, Any]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"data": {"format": form, "path": str(path)}}


def test_rankings_of_a_file_are_groups_with_their_scores(study: Study, tmp_path: Path) -> None:
    rows = read(study, "rrhf", **source_of(tmp_path, RANKINGS, "rankings"))
    assert [(texts(row), scores(row)) for row in rows] == [("abc", [1, 3, 2]), ("de", [0.5, 0.25])]


def test_prompts_with_nothing_to_compare_are_counted(
    study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers = {"p": [1.0, 2.0], "q": [1.0], "r": [0.5, 0.5], "s": [None, 3.0], "t": [None]}
    rows = [
        Example(Prompt(name, (Message("user", name),)), tuple(Candidate(str(i), score=x) for i, x in enumerate(values)))
        for name, values in answers.items()
    ]
    loaded = study()
    settings = {"kind": "train", "algorithm": {"name": "rrhf"}, "model": "m", "examples": "stage:draws"}
    with RunContext(loaded, Inputs(loaded)) as context:
        write_jsonl(context.output("stage:draws"), rows)
        rest = list(read_examples(context, TrainStage.model_validate(settings)))
    assert [row.prompt.id for row in rest] == ["p", "q", "r", "s"]
    assert "5 prompts: 1 without a score are left out; 2 with one scored answer and 1 with equal scores" in caplog.text


def test_awkward_candidates_train_rrhf_or_are_counted(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    groups = {
        "a tie": [("yes", 1.0), ("no please", 1.0)],
        "one candidate": [("yes", 2.0)],
        "an absent score and an empty answer": [("yes", 1.0), ("no", None), ("", 3.0)],
        "no score": [("yes", None)],
        "an answer over the budget": [("yes", 1.0), ("please " * 40, 2.0)],
    }
    loaded = study("stages.draws.best_of={n: 4, reward: 'rules:numeric'}", "stages.draws.count=1")
    source = {"model": "m", "examples": "stage:draws/drawn"}
    stage = TrainStage.model_validate({"kind": "train", "algorithm": {"name": "rrhf"}, **source})
    with RunContext(loaded, Inputs(loaded)) as context:
        drawn = []
        for prompt_id, answers in groups.items():
            candidates = tuple(Candidate(text, "m", score) for text, score in answers)
            drawn.append(Example(Prompt(prompt_id, (Message("user", "the"),)), candidates))
        write_jsonl(context.output("stage:draws/drawn"), drawn)
        rows = list(encode_examples(build_tokenizer(), read_examples(context, stage), context=30))
    assert [row.prompt for row in rows] == [
        "a tie", "a tie", "one candidate",
        "an absent score and an empty answer", "an absent score and an empty answer",
    ]  # fmt: skip
    assert sum(rows[-1].mask) == 1  # the empty answer is the end alone
    assert "4 examples: 0 lost early turns, 1 left out, to fit 30 tokens" in caplog.text
    rrhf = load({"name": "rrhf"})
    batch = rrhf.prepare(collate_examples(rows, pad_id=0))
    logprobs_BT = -torch.rand(batch["input_ids_BT"].shape, generator=torch.Generator().manual_seed(0))
    loss = rrhf.loss("policy", Outputs(logprobs_BT=logprobs_BT), batch)
    assert loss.normaliser == 3 and loss.metrics["rrhf/violations"].weight == 1  # the tie makes no pair
    assert loss.numerator.isfinite() and loss.metrics["loss/sft"].value > 0


@pytest.mark.parametrize("name", ["dpo", "sppo", "simpo", "orpo", "ipo", "rpo", "cpo", "hinge", "slic"])
def test_the_extremes_of_what_was_drawn_train_any_solver(study: Study, tmp_path: Path, name: str) -> None:
    answers = [("no", 1.0), ("yes please", 3.0), ("", 0.0), ("maybe", 2.0)]
    candidates = tuple(Candidate(text, "m", score) for text, score in answers)
    drawn = [Example(Prompt(prompt_id, (Message("user", "the"),)), candidates) for prompt_id in "pq"]
    loaded = study("stages.draws.best_of={n: 4, reward: 'rules:numeric'}", "stages.draws.count=1")
    source = {"model": "m", "examples": "stage:draws/extremes"}
    stage = TrainStage.model_validate({"kind": "train", "algorithm": {"name": name}, **source})
    with RunContext(loaded, Inputs(loaded)) as context:
        write_jsonl(context.output("stage:draws/extremes"), filter(None, map(extremes, drawn)))
        examples = list(read_examples(context, stage))
    assert [[candidate.text for candidate in example.candidates] for example in examples] == [["yes please", ""]] * 2
    write_rows(tmp_path / "rows", encode_examples(build_tokenizer(), examples, context=64))
    rollouts = RowFile(tmp_path / "rows").collate(torch.arange(4))
    logprobs_BT = torch.full(rollouts.input_ids_BT.shape, -1.0).requires_grad_()
    rollouts.logprobs_BT = rollouts.reference_logprobs_BT = logprobs_BT.detach()
    solver = load({"name": name})
    solver.loss("policy", Outputs(logprobs_BT=logprobs_BT), solver.prepare(rollouts)).numerator.backward()
    best_BT, worst_BT = logprobs_BT.grad[0::2], logprobs_BT.grad[1::2]
    assert (best_BT.sum(dim=1) < 0).all() and (worst_BT.sum(dim=1) > 0).all()


def test_answers_of_a_file_are_good_or_bad(study: Study, tmp_path: Path) -> None:
    rows = read(study, "kto", **source_of(tmp_path, UNPAIRED, "unpaired"))
    assert [(texts(row), row.desirable) for row in rows] == [("ad", 1.0), ("da", 0.0)]


def test_two_answers_have_room_where_either_fits(model: str) -> None:
    assert pair_context(model, 96) == 192
    assert pair_context(model, 1500) == 2048  # the positions of the preset


def test_the_last_held_out_accuracies_become_results() -> None:
    rows = [
        {"step": 0, "metrics": {"eval/loss": 0.7, "heldout/count": 100.0, "eval/reward/accuracy": 0.4}},
        {"step": 8, "metrics": {"reward/accuracy": 0.9, "heldout/count": 100.0, "eval/reward/accuracy": 0.5}},
        {"step": 9, "metrics": {"loss/reward": 0.5, "reward/accuracy": 1.0}},
    ]
    (found,) = heldout_results("rm", rows)
    assert (found["name"], found["metric"], found["mean"], found["n"]) == ("rm", "reward_accuracy", 0.5, 100)
    assert (found["low"], found["high"]) == pytest.approx((0.40383, 0.59617), abs=1e-5)


def test_without_held_out_rows_there_are_none() -> None:
    assert heldout_results("sft", [{"step": 0, "metrics": {"loss/sft": 1.0}}]) == []


def test_the_interval_counts_prompts_not_their_pairs() -> None:
    figures = {"heldout/count": 16.0, "heldout/prompts": 4.0, "eval/reward/accuracy": 0.25}
    (result,) = heldout_results("rm", [{"step": 8, "metrics": figures}])
    assert result["n"] == 4
    assert result["low"] < 0.05 < 0.5 < result["high"]
