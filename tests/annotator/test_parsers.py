from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from rayalign.annotator.parsers import Parser
from rayalign.annotator.sampling import is_switched
from rayalign.errors import InputError

LETTERS = {"outputs_to_match": {1: r"(?:^|\n) ?Output \(a\)", 2: r"(?:^|\n) ?Output \(b\)"}}
RANKS = "[{'model': 'model_1', 'rank': %s}, {'model': 'model_2', 'rank': 1}]"
CHAIN = {
    "parsers_to_kwargs": {"json_parser": {"annotation_key": "models"}, "ranking_parser": {"model_1_name": "m"}},
}
BOOLEANS = {
    "parsers_to_kwargs": {
        "json_parser": {"annotation_key": "b"},
        "replace_parser": {"replacer": {True: 1, False: 2}},
    },
}
WEIGHED = {"numerator_token": "m", "denominator_tokens": ["m", "M"], "is_binarize": False}


def choice(*tokens: dict[str, float]) -> dict[str, Any]:
    content = [{"top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in token.items()]} for token in tokens]
    return {"logprobs": {"content": content}}


@pytest.mark.parametrize(
    "name,arguments,completion,found",
    [
        ("regex_parser", LETTERS, "Output (b)\nOutput (a)\n Output (b)", [2, 1, 2]),
        ("regex_parser", LETTERS, "I prefer Output (b)", []),
        # after a match the rest is a text of its own, in which ^ holds
        ("regex_parser", LETTERS, "Output (a)Output (b)", [1, 2]),
        ("regex_parser", {"outputs_to_match": {2: "yes", 1: "yes!"}}, "yes!", [2]),
        ("regex_parser", {"outputs_to_match": {1: "a*"}}, "b", [None]),
        ("regex_parser", LETTERS, "Output (a)\n" * 20_000, [None]),
        ("lmsys_parser", {}, "7 8.5\nBecause.", [2]),
        ("lmsys_parser", {}, "9,8", [1]),
        ("lmsys_parser", {}, "8 8", [1.5]),
        ("lmsys_parser", {}, "nan 8", [None]),
        ("lmsys_parser", {}, "8 out of 10", [None]),
        ("ranking_parser", {}, RANKS % 2, [2]),
        ("ranking_parser", {}, RANKS % 3, [None]),
        ("ranking_parser", {"model_1_name": "model_2"}, RANKS % 2, [1]),
        ("ranking_parser", {"model_1_name": "m"}, RANKS % 2, [None]),
        ("ranking_parser", {}, "__import__('os').getcwd()", [None]),
        ("json_parser", {"annotation_key": "better"}, '{"better": 2}', [2]),
        ("json_parser", {"annotation_key": "better"}, 'So: ```json\n[{"better": 1}, {"better": 1.25}]```', [1, 1.25]),
        ("json_parser", {"annotation_key": "better"}, '```\n{"better": 2}\n```', [2]),
        ("json_parser", {"annotation_key": "better"}, 'Sure [1]: {"better": 2} {so be it}', [2]),
        ("json_parser", {"annotation_key": "better"}, 'Both: [{"better": 1}, {"better": 2}].', [1, 2]),
        ("json_parser", {"annotation_key": "better"}, '{"better": 1} or {"better": 2}', [None]),
        ("json_parser", {"annotation_key": "better"}, '<think>{"better": 1}?</think>\n{"better": 2}', [2]),
        ("regex_parser", LETTERS, "<think>Output (a)? No.</think>\nOutput (b)", [2]),
        ("regex_parser", LETTERS, "<think>Output (a)?", [None]),
        ("json_parser", {"annotation_key": "better"}, '{"better": NaN}', [None]),
        ("json_parser", {"annotation_key": "better"}, '{"best": 2}', [None]),
        ("json_parser", {"annotation_key": "better"}, '{"better": true}', [None]),
        ("json_parser", {"annotation_key": "better"}, '{"better": ', [None]),
        ("eval_parser", {}, "[1, 2, 1.5, 0, 3, 'x']", [1, 2, 1.5, 1.5, None, None]),
        ("eval_parser", {}, "2", [2]),
        ("eval_parser", {}, "-" * 100_000 + "1", [None]),
        ("eval_parser", {}, "[" * 100_000, [None]),
        ("replace_parser", {"replacer": {"A": 1, "B": 2}}, "B", [2]),
        ("replace_parser", {"replacer": {"A": 1}, "default_replacer": 2}, "what", [2]),
        ("replace_parser", {"replacer": {"A": 1}}, "what", [None]),
        ("pipeline_meta_parser", CHAIN, '{"models": [{"model": "M", "rank": 1}, {"model": "m", "rank": 2}]}', [2]),
        ("pipeline_meta_parser", BOOLEANS, '[{"b": false}, {"b": true}]', [2, 1]),
        ("pipeline_meta_parser", json.loads(json.dumps(BOOLEANS)), '[{"b": false}, {"b": true}]', [2, 1]),
        ("regex_parser", LETTERS, "", [None]),
    ],
)
def test_what_an_answer_means(name: str, arguments: dict[str, Any], completion: str, found: list[float | None]) -> None:
    assert Parser(name, arguments).read(completion, len(found))[0] == found


@pytest.mark.parametrize(
    "arguments,completion,found",
    [
        ({}, choice({"m": 0.6, "M": 0.2, "The": 0.1}), [2 - 0.75]),
        ({}, choice({"M": 0.9, "The": 0.1}), [2.0]),
        ({}, choice({"m": 0.1}, {"m": 0.1, "M": 0.3}), [1.0, 1.75]),
        ({}, choice({"The": 1.0}), [None]),
        ({}, choice(), [None]),
        ({"log_prob_index": -1}, choice({"M": 1.0}, {"m": 0.8, "M": 0.2}), [1.2]),
        ({"log_prob_index": 3}, choice({"M": 1.0}), [None]),
        ({"is_binarize": True}, choice({"m": 0.6, "M": 0.2}), [1]),
        ({"is_binarize": True}, choice({"m": 0.2, "M": 0.2}), [2]),
        ({}, {"logprobs": None}, [None]),
        ({}, {}, [None]),
    ],
)
def test_what_token_probabilities_mean(arguments: dict[str, Any], completion: dict[str, Any], found: list[Any]) -> None:
    read, _ = Parser("logprob_parser", {**WEIGHED, **arguments}).read(completion, len(found))
    assert read == pytest.approx(found)


def test_a_batch_with_another_number_of_verdicts_is_void() -> None:
    parser = Parser("regex_parser", LETTERS)
    assert parser.read("Output (a)\nOutput (b)", 2) == ([1, 2], None)
    found, reason = parser.read("Output (a)\nOutput (b)", 3)
    assert found == [None] * 3 and "finds 2 verdicts in place of 3" in str(reason)


def test_what_cannot_be_read_has_its_reason() -> None:
    for parser, completion, words in [
        (Parser("json_parser", {"annotation_key": "better"}), "no json", "JSONDecodeError"),
        (Parser("json_parser", {"annotation_key": "better"}), "", "it is empty"),
        (Parser("eval_parser"), "[1.0, 3.0]", "no preference between 1 and 2"),
        (Parser("regex_parser", {"outputs_to_match": {1: "(?=a)"}}), "a", "matches the empty text"),
    ]:
        found, reason = parser.read(completion, 2)
        assert None in found and words in str(reason)


def test_only_log_probs_are_read_from_the_whole_choice() -> None:
    assert Parser("logprob_parser", WEIGHED).reads_logprobs
    assert Parser("pipeline_meta_parser", {"parsers_to_kwargs": {"logprob_parser": WEIGHED}}).reads_logprobs
    assert not Parser("pipeline_meta_parser", CHAIN).reads_logprobs


@pytest.mark.parametrize(
    "name,arguments,words",
    [
        ("regex_parse", {}, "did you mean regex_parser"),
        ("regex_parser", {}, "outputs_to_match is missing"),
        ("regex_parser", {"output_to_match": {}}, "did you mean outputs_to_match"),
        ("regex_parser", {"outputs_to_match": {1: "("}}, "outputs_to_match.1 is .*regular expression"),
        ("regex_parser", {"outputs_to_match": {}}, "outputs_to_match is {}; expected .*at least 1"),
        (
            "logprob_parser",
            {"numerator_token": "m", "denominator_tokens": "mM"},
            "denominator_tokens is 'mM'; expected a valid list",
        ),
        ("logprob_parser", {**WEIGHED, "log_prob_index": "last"}, "log_prob_index"),
        ("pipeline_meta_parser", {"parsers_to_kwargs": {"jason_parser": {}}}, "did you mean json_parser"),
    ],
)
def test_a_wrong_parser_is_refused(name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Parser(name, arguments)


def test_stored_annotations_come_out_as_published(test_data: Path) -> None:
    parser = Parser("logprob_parser", WEIGHED)
    read = 0
    for file in sorted(test_data.glob("alpaca_eval/*/weighted_alpaca_eval_gpt4_turbo/annotations.json.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as annotations:
            rows = [row for row in json.load(annotations) if row.get("raw_completion")]
        for row in rows:
            [preference], _ = parser.read(row["raw_completion"], 1)
            assert preference is not None
            shown = 3 - preference if is_switched(row["instruction"], 0) else preference
            assert shown == pytest.approx(row["preference"], abs=1e-9)
        read += len(rows)
    assert read > 5000
