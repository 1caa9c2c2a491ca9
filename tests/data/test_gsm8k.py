"""GSM8K's rows, the additions in its format, and facts that rows carry for scorers."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from rayalign.config import DataConfig
from rayalign.data import arithmetic
from rayalign.data.gsm8k import gsm8k
from rayalign.data.readers import load_examples
from rayalign.errors import InputError
from rayalign.types import Candidate, Example, Message

ROW = {"question": "Two and half of six?", "answer": "Half is 6/2 = <<6/2=3>>3.\n2 + 3 = <<2+3=5>>5.\n#### 5"}


def test_the_number_after_the_mark_is_the_reference_and_calculations_are_left_out() -> None:
    example = gsm8k(ROW, "here")
    assert isinstance(example, Example)
    assert example.prompt.messages == (Message("user", ROW["question"]),)
    assert example.prompt.meta == {"reference": "5"}
    assert example.candidates == (Candidate("Half is 6/2 = 3.\n2 + 3 = 5.\n#### 5"),)


@pytest.mark.parametrize("answer", ["it is 5", "#### ", "#### five", ""])
def test_an_answer_without_a_number_is_left_out(answer: str) -> None:
    assert gsm8k({**ROW, "answer": answer}, "here") == "no number after ####"


def test_a_row_without_a_question_is_refused_with_its_place() -> None:
    with pytest.raises(InputError, match="train.jsonl:3: needs a text 'question'; the row has answer"):
        gsm8k({"answer": "#### 5"}, "train.jsonl:3")


def test_the_published_files_are_read(test_data: Path) -> None:
    config = DataConfig(format="gsm8k", path=str(test_data / "gsm8k"), split="test")
    examples = load_examples(config, seed=0, use="prompts")
    assert len(examples) == 300
    assert all(example.prompt.meta["reference"] for example in examples)


def load(split: str, use: str) -> list[Example]:
    return load_examples(DataConfig(format="arithmetic", split=split), seed=0, use=use)  # type: ignore[arg-type]


def test_test_pairs_are_unseen_in_training() -> None:
    seen = {example.prompt.messages for example in load("train", "prompts")}
    unseen = {example.prompt.messages for example in load("test", "prompts")}
    assert len(seen) + len(unseen) == 25**2 and len(unseen) == 62
    assert not seen & unseen
    assert {example.prompt.messages for example in load("train", "demonstrations")} == seen


def test_the_reference_of_a_prompt_is_the_right_sum() -> None:
    for example in load("test", "prompts"):
        a, _, b = example.prompt.messages[0].content.removeprefix("What is ").removesuffix("?").split()
        assert int(example.prompt.meta["reference"]) == int(a) + int(b)


def test_half_of_the_demonstrations_have_a_slip() -> None:
    right = {example.prompt.messages: example.prompt.meta["reference"] for example in load("train", "prompts")}
    shown = load("train", "demonstrations")
    correct = [right[example.prompt.messages] == example.prompt.meta["reference"] for example in shown]
    assert len(shown) == arithmetic.ROWS
    assert 0.49 < sum(correct) / len(correct) < 0.51


def test_additions_are_the_same_for_the_same_seed_and_others_for_another() -> None:
    first, again, other = (list(islice(arithmetic.rows(s, "train", distinct=False), 20)) for s in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("split", "use", "message"), [("hard", "prompts", "no split 'hard'"), ("train", "comparisons", "no comparisons")]
)
def test_what_the_additions_do_not_have_is_refused(split: str, use: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(split, use)


def test_a_prompt_carries_the_facts_of_its_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "two?", "meta": {"reference": "2", "objectives": "exact"}}) + "\n")
    (example,) = load_examples(DataConfig(format="prompts", path=str(path)), seed=0, use="prompts")
    assert example.prompt.meta == {"reference": "2", "objectives": "exact"}
    path.write_text(json.dumps({"prompt": "two?", "meta": {"reference": 2}}) + "\n")
    with pytest.raises(InputError, match="`meta` must be an object of texts"):
        load_examples(DataConfig(format="prompts", path=str(path)), seed=0, use="prompts")
