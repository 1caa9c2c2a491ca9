from __future__ import annotations

from pathlib import Path

import pytest

from rayalign.errors import InputError
from rayalign.evaluation.head_to_head import output_rows
from rayalign.evaluation.tables import read_annotations
from rayalign.storage.dialogues import dialogue_fields
from rayalign.storage.records import write_jsonl
from rayalign.types import Candidate, Comparison, Example, Message, Prompt

PROMPT = Prompt("p", (Message("user", "q"),))
DIALOGUE = Prompt("d", (Message("user", "q"), Message("assistant", "what ?"), Message("user", "that")))


def test_the_verdicts_of_a_run_are_read_as_annotations(tmp_path: Path) -> None:
    sides = Candidate("one", "base"), Candidate("two", "ppo")
    verdicts = [Comparison(PROMPT, *sides, 2.0, "gold"), Comparison(DIALOGUE, *sides, None, "gold")]
    write_jsonl(tmp_path / "records.jsonl", verdicts)
    (run,) = read_annotations(tmp_path / "records.jsonl")
    assert (run.name, run.baseline, run.preferences) == ("ppo", "base", [2.0, None])
    assert run.prompts == ["q", "user: q\n\nassistant: what ?\n\nuser: that"]


def measured_rows(values: dict[str, dict[str, float | None]]) -> list[dict[str, object]]:
    """What an `evaluate` stage writes."""
    rows: list[dict[str, object]] = []
    for model, own in values.items():
        for prompt_id, value in own.items():
            answer = f"{model} on {prompt_id}"
            rows.append({"model": model, "prompt_id": prompt_id, "prompt": "q", "answer": answer, "value": value})
    return rows


def test_measured_answers_are_paired_with_the_first_model_by_value(tmp_path: Path) -> None:
    values: dict[str, dict[str, float | None]] = {
        "sft": {"a": 0.5, "b": 0.5, "c": 0.5, "d": None},
        "ppo": {"a": 0.9, "b": 0.5, "c": 0.1, "d": 0.9, "e": 1.0},
        "dpo": {"c": 0.7},
    }
    write_jsonl(tmp_path / "records.jsonl", measured_rows(values))
    ppo, dpo = read_annotations(tmp_path / "records.jsonl")
    assert (ppo.name, ppo.baseline, ppo.preferences) == ("ppo", "sft", [2.0, 1.5, 1.0, None])
    assert (ppo.rows[0]["output_1"], ppo.rows[0]["output_2"]) == ("sft on a", "ppo on a")
    assert ppo.rows[0]["annotator"] == "value"
    assert (dpo.name, dpo.baseline, dpo.preferences) == ("dpo", "sft", [2.0])


def test_pairs_of_measured_dialogues_keep_their_turns(tmp_path: Path) -> None:
    asked = (Message("assistant", "of whom ?"), Message("user", "of tom ."))
    rows = []
    for model, answer in (("sft", Candidate("blue")), ("ppo", Candidate("red", turns=asked))):
        rows.append({"model": model, "prompt_id": "p", **dialogue_fields(PROMPT, answer), "value": 0.5})
    write_jsonl(tmp_path / "records.jsonl", rows)
    (run,) = read_annotations(tmp_path / "records.jsonl")
    assert run.prompts == ["q"] and run.rows[0]["output_1"] == "blue"
    assert run.rows[0]["output_2"] == "assistant: of whom ?\n\nuser: of tom .\n\nassistant: red"


def test_measured_answers_that_make_no_pairs_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    write_jsonl(file, measured_rows({"sft": {"a": 0.5}}))
    with pytest.raises(InputError, match="holds the answers of sft alone"):
        read_annotations(file)
    write_jsonl(file, measured_rows({"sft": {"a": 0.5}}) * 2)
    with pytest.raises(InputError, match="two answers of sft to prompt a"):
        read_annotations(file)


def test_the_answers_of_a_run_are_read_as_outputs(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "records.jsonl", [Example(PROMPT, (Candidate("one"), Candidate("two", "ppo")))])
    assert list(output_rows(tmp_path / "records.jsonl")) == [
        {"instruction": "q", "output": "one"},
        {"instruction": "q", "output": "two", "generator": "ppo"},
    ]
    measured = {"model": "sft", "prompt_id": "p", "prompt": "q", "answer": "a", "value": 0.5}
    write_jsonl(tmp_path / "measured.jsonl", [measured])
    assert list(output_rows(tmp_path / "measured.jsonl")) == [{"instruction": "q", "output": "a", "generator": "sft"}]


def test_dialogues_are_read_whole(tmp_path: Path) -> None:
    asked = (Message("assistant", "of whom ?"), Message("user", "of tom ."))
    row = {"model": "ppo", "prompt_id": "p", **dialogue_fields(PROMPT, Candidate("red", turns=asked)), "value": 0.5}
    write_jsonl(tmp_path / "measured.jsonl", [row])
    (output,) = output_rows(tmp_path / "measured.jsonl")
    assert output["instruction"] == "user: q\n\nassistant: of whom ?\n\nuser: of tom ." and output["output"] == "red"
    sides = Candidate("red", "base", turns=asked), Candidate("blue", "ppo")
    write_jsonl(tmp_path / "records.jsonl", [Comparison(PROMPT, *sides, 1.0, "gold")])
    (run,) = read_annotations(tmp_path / "records.jsonl")
    assert run.prompts == ["q"] and run.rows[0]["output_2"] == "blue"
    assert run.rows[0]["output_1"] == "assistant: of whom ?\n\nuser: of tom .\n\nassistant: red"


def test_half_of_a_surrogate_pair_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"instruction": "q", "output": "smile \\ud83d"}]')
    with pytest.raises(InputError, match=r"a\.json: row 1: holds half of a surrogate pair"):
        list(output_rows(tmp_path / "a.json"))
