"""`rayalign evaluate mt-bench` against a fake endpoint and the embedded annotators."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayalign.config import ServiceConfig
from rayalign.data.paddock import gold, prompts
from rayalign.evaluation import mt_bench_files
from rayalign.storage.records import read_jsonl, write_jsonl
from tests.annotator.served import serving
from tests.annotator.stub_endpoint import Stub
from tests.cli.benchmarks import answer_turns, by_model, call, lines, prefer

QUESTIONS = [
    mt_bench_files.Question(1, "writing", ("w1", "w2")),
    mt_bench_files.Question(2, "math", ("m1", "m2"), ("right", "right again")),
    mt_bench_files.Question(3, "writing", ("only one turn",)),
]


@pytest.fixture
def mt(tmp_path: Path) -> list[object]:
    """The options of a small MT-Bench with the models good, bad and base."""
    mt_bench_files.write_questions(tmp_path / "question.jsonl", QUESTIONS)
    for model, word in {"good": "excellent", "bad": "poor", "base": "plain"}.items():
        answer_turns(tmp_path, model, {1: (word, word), 2: (word, word), 3: (word,)})
    options: list[object] = ["--questions", tmp_path / "question.jsonl", "--answers", tmp_path / "model_answer"]
    return [*options, "--output", tmp_path / "out", "--judge", "judge/one", "--json"]


PUBLIC_PAIR = (
    "question_id", "model_1", "model_2", "g1_winner", "g2_winner", "judge", "g1_user_prompt", "g1_judgment",
    "g2_user_prompt", "g2_judgment", "turn", "tstamp",
)  # fmt: skip
"""the columns of FastChat's gpt-4_pair.jsonl"""


def grade(messages: Sequence[dict[str, str]]) -> str:
    """Rates by a word of the answer, and forgets the rating of a plain first turn."""
    text = messages[-1]["content"]
    if "excellent" in text:
        return "Rating: [[9]]" if "Answer:" in text else "[8]"
    return "Rating: [[2]]" if "poor" in text else "I would rather not."


def test_mt_bench_rates_and_goes_on_where_it_stopped(mt: list[object], tmp_path: Path) -> None:
    judgments = tmp_path / "out" / "judge_one_single.jsonl"
    with Stub(says=grade) as stub:
        figures = by_model(call("mt-bench", *mt, "--base-url", stub.url))
        assert len(stub.bodies) == 15 and stub.bodies[0]["max_tokens"] == 2048 and stub.bodies[0]["temperature"] == 0.0
        kept = judgments.read_text().splitlines(keepends=True)
        judgments.write_text("".join(kept[:10]) + kept[10][:20])  # as a kill leaves it
        again = by_model(call("mt-bench", *mt, "--base-url", stub.url))
        assert len(stub.bodies) == 20
        answer_turns(tmp_path, "bad", {1: ("excellent", "poor"), 2: ("poor", "poor"), 3: ("poor",)})
        changed = by_model(call("mt-bench", *mt, "--base-url", stub.url))
        assert len(stub.bodies) == 22  # both turns of the changed answer, and nothing else
    good, bad, base = figures["good"], figures["bad"], figures["base"]
    assert (good["first_turn"]["mean"], good["second_turn"]["mean"], good["rated"]) == (8.0, 9.0, 5)
    assert good["mean"]["mean"] == pytest.approx(42 / 5) and good["mean"]["n"] == 3
    assert {name: figure["mean"] for name, figure in good["categories"].items()} == {
        "writing": pytest.approx(25 / 3),
        "math": 8.5,
    }
    assert bad["mean"]["mean"] == 2.0 and (base["mean"], base["dropped"], base["categories"]) == (None, 5, {})
    assert again == figures and changed["bad"]["mean"]["mean"] == pytest.approx((8 + 9 + 3 * 2) / 5)
    row = next(row for row in read_jsonl(judgments) if row["question_id"] == 2 and row["turn"] == 2)
    public = ["question_id", "model", "judge", "user_prompt", "judgment", "score", "turn", "tstamp"]
    assert list(row)[:8] == public and row["judge"] == ["judge/one", "rayalign-single-reference-turns"]
    assert "right again" in row["user_prompt"]
    page = (tmp_path / "out" / "mt_bench_single.html").read_text()
    assert page.count("<circle") == 4 and ">math</text>" in page and "good" in page


def test_mt_bench_counts_existing_judgments(mt: list[object], tmp_path: Path) -> None:
    with Stub(says=grade) as stub:
        made = by_model(call("mt-bench", *mt, "--base-url", stub.url))
    files = ["--judgments", tmp_path / "out" / "judge_one_single.jsonl", "--output", tmp_path / "out"]
    counted = by_model(call("mt-bench", *files, "--questions", tmp_path / "question.jsonl", "--json"))
    assert counted == made
    shown = call("mt-bench", *files)
    assert "8.40" in shown.stdout and "writing" not in shown.stdout  # no question file, no categories


def test_mt_bench_tries_failed_judgments_again(mt: list[object]) -> None:
    with Stub(says=grade, script=["400", None, "400"]) as stub:
        first = call("mt-bench", *mt, "--base-url", stub.url)
        assert "no reply: 2 judgments: judge/one at 127.0.0.1 refused the request (status 400)" in first.stderr
        second = call("mt-bench", *mt, "--base-url", stub.url)
        assert "no reply" not in second.stderr and "2 new judgments, 13 from earlier" in second.stderr
        assert by_model(second)["good"]["rated"] == 5


def test_mt_bench_says_when_nothing_was_judged(mt: list[object]) -> None:
    with Stub(shares={"401": 1.0}) as stub:
        nothing = call("mt-bench", *mt, "--base-url", stub.url)
    assert nothing.exit_code == 1 and "no judgment was made" in nothing.stderr


def test_mt_bench_compares_with_a_baseline_in_both_orders(mt: list[object], tmp_path: Path) -> None:
    answer_turns(tmp_path, "same", {1: ("plain", "plain"), 2: ("plain", "plain")})
    options = [*mt, "--mode", "pairwise-baseline", "--baseline", "base"]
    with Stub(says=prefer) as stub:
        result = call("mt-bench", *options, "--base-url", stub.url)
        assert len(stub.bodies) == 2 * (5 + 5 + 4)
    figures = by_model(result)
    assert list(figures) == ["good", "same", "bad"]
    assert "same lacks answers to 1 questions (3)" in result.stderr
    counts = {name: (entry["win"], entry["loss"], entry["tie"]) for name, entry in figures.items()}
    assert counts == {"good": (5, 0, 0), "bad": (0, 5, 0), "same": (0, 0, 4)}
    assert figures["same"]["inconsistent"] == 4 and figures["same"]["adjusted"] == 0.5
    row = next(read_jsonl(tmp_path / "out" / "judge_one_pair.jsonl"))
    assert (row["model_1"], row["model_2"], row["g1_winner"], row["g2_winner"]) == ("bad", "base", "model_2", "model_2")


def pair_prompts(folder: Path, output_format: str) -> list[object]:
    """The option of a prompt file of the user's own."""
    first = "{question}: {answer_a} assistant B {answer_b}"
    second = "{question_2}: {answer_a_2} assistant B {answer_b_2}"
    templates = {
        "pair-v2": first,
        "pair-math-v1": "{ref_answer_1} to " + first,
        "pair-v2-multi-turn": second,
        "pair-math-v1-multi-turn": "{ref_answer_2} to " + second,
    }
    rows = []
    for name, template in templates.items():
        texts = {"name": name, "type": "pairwise", "system_prompt": "", "prompt_template": template}
        rows.append(texts | {"description": "", "category": "general", "output_format": output_format})
    write_jsonl(folder / "prompts.jsonl", rows)
    return ["--prompts", folder / "prompts.jsonl"]


def test_mt_bench_writes_pairs_in_the_public_columns(mt: list[object], tmp_path: Path) -> None:
    options = [*mt, "--mode", "pairwise-baseline", "--baseline", "base", *pair_prompts(tmp_path, "[[A]]")]
    start = time.time()
    with Stub(says=lambda messages: f"I choose {prefer(messages)}") as stub:
        lines(call("mt-bench", *options, "--base-url", stub.url))
    rows = list(read_jsonl(tmp_path / "out" / "judge_one_pair.jsonl"))
    (row,) = [row for row in rows if (row["question_id"], row["model_1"], row["turn"]) == (2, "good", 2)]
    expected = {
        "question_id": 2,
        "model_1": "good",
        "model_2": "base",
        "g1_winner": "model_1",
        "g2_winner": "model_1",
        "judge": ["judge/one", "pair-math-v1-multi-turn"],
        "g1_user_prompt": "right again to m2: excellent assistant B plain",
        "g1_judgment": "I choose [[A]]",
        "g2_user_prompt": "right again to m2: plain assistant B excellent",
        "g2_judgment": "I choose [[B]]",
        "turn": 2,
        "tstamp": row["tstamp"],
        "price": 0.0,
        "seconds": row["seconds"],
    }
    assert row == expected and list(row) == [*PUBLIC_PAIR, "price", "seconds"]
    assert start <= row["tstamp"] <= time.time() and row["seconds"] > 0.0
    assert {(row["judge"][1], row["turn"]) for row in rows} == {
        ("pair-v2", 1),
        ("pair-math-v1", 1),
        ("pair-v2-multi-turn", 2),
        ("pair-math-v1-multi-turn", 2),
    }


def test_mt_bench_asks_for_no_pair_twice(mt: list[object], tmp_path: Path) -> None:
    judgments = tmp_path / "out" / "judge_one_pair.jsonl"
    options = [*mt, "--mode", "pairwise-baseline", "--baseline", "base"]
    with Stub(says=prefer) as stub:
        first = lines(call("mt-bench", *options, "--base-url", stub.url))
        assert len(stub.bodies) == 20
        again = call("mt-bench", *options, "--base-url", stub.url)
        assert len(stub.bodies) == 20 and lines(again) == first
        assert "0 new judgments, 10 from earlier" in again.stderr
        # rows of another program lack the fields of ours
        rows = [{name: row[name] for name in PUBLIC_PAIR} for row in read_jsonl(judgments)]
        write_jsonl(judgments, rows[1:])
        assert lines(call("mt-bench", *options, "--base-url", stub.url)) == first
        assert len(stub.bodies) == 22  # both games of the row that is gone


def test_mt_bench_compares_all_pairs_by_the_users_prompts(mt: list[object], tmp_path: Path) -> None:
    options = [*mt, "--mode", "pairwise-all", *pair_prompts(tmp_path, "[[rating_a,rating_b]]")]
    scores = {"[[A]]": "[[7,3]]", "[[B]]": "[[3,7]]"}
    with Stub(says=lambda messages: scores.get(prefer(messages), "[[5, 5]]")) as stub:
        figures = by_model(call("mt-bench", *options, "--base-url", stub.url))
        assert all(len(body["messages"]) == 1 for body in stub.bodies)
    assert {name: (entry["win"], entry["loss"]) for name, entry in figures.items()} == {
        "good": (10, 0),
        "base": (5, 5),
        "bad": (0, 10),
    }


def test_mt_bench_leaves_out_who_never_met_the_baseline(mt: list[object], tmp_path: Path) -> None:
    with Stub(says=prefer) as stub:
        call("mt-bench", *mt, "--mode", "pairwise-all", "--base-url", stub.url)
    path = tmp_path / "out" / "judge_one_pair.jsonl"
    rows = [row for row in read_jsonl(path) if {row["model_1"], row["model_2"]} != {"bad", "base"}]
    write_jsonl(path, rows)
    options = ["--judgments", path, "--output", tmp_path / "out", "--mode", "pairwise-baseline", "--baseline", "base"]
    result = call("mt-bench", *options, "--json")
    assert list(by_model(result)) == ["good"]
    assert "left out: bad: no judgment of it against base" in result.stderr


def gold_options(folder: Path) -> list[object]:
    """The options of six prompts that a rubric can judge, with the answers of an oracle and of a silent model."""
    asked = [prompt for prompt in prompts(0, "test", 9) if len(prompt.messages) == 1][:6]
    questions = [mt_bench_files.Question(i, "iid", (p.messages[-1].content,)) for i, p in enumerate(asked)]
    mt_bench_files.write_questions(folder / "question.jsonl", questions)
    answer_turns(folder, "oracle", {i: (gold.oracle(prompt),) for i, prompt in enumerate(asked)})
    answer_turns(folder, "silent", dict.fromkeys(range(len(asked)), ("",)))
    options: list[object] = ["--questions", folder / "question.jsonl", "--answers", folder / "model_answer"]
    return [*options, "--judge", "gold", "--output", folder / "out", "--json"]


def gold_settings(folder: Path) -> dict[str, Any]:
    """A pool of one annotator."""
    return {"cache": f"sqlite:///{folder / 'v.db'}", "annotators": {"gold": {"judge": {"kind": "rubric"}}}}


def test_mt_bench_by_an_annotator_of_pairs(tmp_path: Path) -> None:
    pool = tmp_path / "pool.yaml"
    pool.write_text(yaml.safe_dump(gold_settings(tmp_path)))
    options = [*gold_options(tmp_path), "--at", pool]
    figures = by_model(call("mt-bench", *options, "--mode", "pairwise-baseline", "--baseline", "silent"))
    assert (figures["oracle"]["win"], figures["oracle"]["n"]) == (6, 6)
    single = call("mt-bench", *options)
    assert single.exit_code == 2 and "the annotator gold compares pairs" in single.stderr


def test_mt_bench_by_an_annotator_of_a_service(tmp_path: Path) -> None:
    options = [*gold_options(tmp_path), "--mode", "pairwise-baseline", "--baseline", "silent"]
    with serving(ServiceConfig.model_validate(gold_settings(tmp_path))) as url:
        result = call("mt-bench", *options, "--at", url)
        absent = call("mt-bench", *options, "--at", url, "--judge", "silver")
    figures = by_model(result)
    assert (figures["oracle"]["win"], figures["oracle"]["n"]) == (6, 6)
    assert "6 new judgments, 0 from earlier" in result.stderr
    row = next(read_jsonl(tmp_path / "out" / "gold_pair.jsonl"))
    assert row["judge"] == ["gold", "rayalign-pairwise"]
    assert row["g1_judgment"].endswith("[[A]]") and row["g2_judgment"].endswith("[[B]]")
    assert absent.exit_code == 2 and "there is no 'silver'; known: pool, gold" in absent.stderr


def test_mt_bench_refuses_what_it_cannot_judge(mt: list[object], tmp_path: Path) -> None:
    assert "--mode is single, pairwise-baseline, pairwise-all" in call("mt-bench", *mt, "--mode", "pairs").stderr
    assert "give --questions, --answers and --judge" in call("mt-bench", "--judge", "x").stderr
    assert "no annotator 'judge/one'" in call("mt-bench", *mt).stderr
    folder = call("mt-bench", *mt, "--base-url", "http://127.0.0.1:1/v1", "--output", tmp_path / "question.jsonl")
    assert folder.exit_code == 2 and "cannot be written" in folder.stderr
    write_jsonl(tmp_path / "out" / "judge_one_single.jsonl", [{"question_id": 1}])
    strange = call("mt-bench", *mt, "--base-url", "http://127.0.0.1:1/v1")
    assert strange.exit_code == 2 and "holds a row that is no judgment" in strange.stderr
    nobody = call("mt-bench", *mt, "--base-url", "http://127.0.0.1:1/v1", "--mode", "pairwise-baseline")
    assert nobody.exit_code == 2 and "the baseline gpt-3.5-turbo" in nobody.stderr
    mt_bench_files.write_questions(tmp_path / "question.jsonl", [mt_bench_files.Question(1, "coding", ("w1", "w2"))])
    lacking = call("mt-bench", *mt, "--base-url", "http://127.0.0.1:1/v1")
    assert lacking.exit_code == 2 and "judged with a reference answer and have none (1)" in lacking.stderr


def test_mt_bench_judges_the_public_set_by_its_own_prompts(test_data: Path, tmp_path: Path) -> None:
    home = test_data / "mt_bench"
    references = home / "reference_answer_gpt-4.jsonl"
    questions = mt_bench_files.read_questions(str(home / "question.jsonl"))
    answer_turns(tmp_path, "m", {question.id: ("first", "second") for question in questions})
    options = ["--questions", home / "question.jsonl", "--answers", tmp_path / "model_answer", "--judge", "gpt-4"]
    options += ["--references", references, "--prompts", home / "judge_prompts.jsonl", "--output", tmp_path, "--json"]
    with Stub(says=lambda messages: "Rating: [[6]]") as stub:
        (entry,) = lines(call("mt-bench", *options, "--base-url", stub.url))
    rows = list(read_jsonl(tmp_path / "gpt-4_single.jsonl"))
    counts = Counter(row["judge"][1] for row in rows)
    assert counts == {
        "single-v1": 50,
        "single-math-v1": 30,
        "single-v1-multi-turn": 50,
        "single-math-v1-multi-turn": 30,
    }
    assert entry["rated"] == 160 and len(entry["categories"]) == 8
    (answers,) = mt_bench_files.read_answers(references)
    judged = {(row["question_id"], row["turn"]): row["user_prompt"] for row in rows}
    assert all(turns[0] in judged[identifier, 1] for identifier, turns in answers.turns.items())
    assert all(turns[1] in judged[identifier, 2] for identifier, turns in answers.turns.items())
