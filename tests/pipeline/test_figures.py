from __future__ import annotations

from rayalign.config import RewardSource
from rayalign.pipeline.figures import _records, verified
from rayalign.types import Candidate, Message, Prompt


def test_rules_measure_answers_without_an_actor() -> None:
    prompts = {p: Prompt(p, (), {"reference": p}) for p in ("1", "2")} | {"3": Prompt("3", ())}
    texts = {"sft": {"1": "#### 1", "2": "3", "3": "3"}, "rl": {"1": "1", "2": "2", "3": "3"}}
    answers = {name: {p: Candidate(text) for p, text in own.items()} for name, own in texts.items()}
    values = verified(RewardSource(source="rules:numeric"), prompts, answers)
    assert values == {"sft": {"1": 1.0, "2": 0.0}, "rl": {"1": 1.0, "2": 1.0}}


def test_records_keep_whole_dialogues() -> None:
    asked = (Message("user", "what is the color ?"), Message("assistant", "of whom ?"), Message("user", "of tom ."))
    turns = (Message("assistant", "of tom ?"), Message("user", "yes , please ."))
    prompts = {"p": Prompt("p", asked, {"task": "color"})}
    answers = {"sft": {"p": Candidate("it is red .", turns=turns)}}
    (row,) = _records(prompts, answers, {"sft": {"p": 0.5}})
    assert [message["content"] for message in row["messages"]] == ["what is the color ?", "of whom ?", "of tom ."]
    assert row["prompt"] == "user: what is the color ?\n\nassistant: of whom ?\n\nuser: of tom ."
    assert row["turns"] == [
        {"role": "assistant", "content": "of tom ?"},
        {"role": "user", "content": "yes , please ."},
    ]
    assert (row["answer"], row["value"], row["meta"]) == ("it is red .", 0.5, {"task": "color"})
