"""The benchmarks' commands against a fake endpoint and the embedded annotators."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from rayalign.cli import app
from rayalign.data.paddock import gold, prompts
from rayalign.evaluation import arena_files, mt_bench_files
from rayalign.storage.records import read_jsonl, write_jsonl
from tests.annotator.stub_endpoint import Stub

QUESTIONS = [
    mt_bench_files.Question(1, "writing", ("w1", "w2")),
    mt_bench_files.Question(2, "math", ("m1", "m2"), ("right", "right again")),
    mt_bench_files.Question(3, "writing", ("only one turn",)),
]


def call(command: str, *arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", command, *map(str, arguments)])


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a key")


@pytest.fixture
def mt(tmp_path: Path) -> list[object]:
    """The options of a small MT-Bench with the models good, bad and base."""
    mt_bench_files.write_questions(tmp_path / "question.jsonl", QUESTIONS)
    for model, word in {"good": "excellent", "bad": "poor", "base": "plain"}.items():
        answer_turns(tmp_path, model, {1: (word, word), 2: (word, word), 3: (word,)})
    options: list[object] = ["--questions", tmp_path / "question.jsonl", "--answers", tmp_path / "model_answer"]
    return [*options, "--output", tmp_path / "out", "--judge", "judge/one", "--json"]


def answer_turns(folder: Path, model: str, turns: dict[int | str, tuple[str, ...]]) -> None:
    path = folder / "model_answer" / f"{model}.jsonl"
    mt_bench_files.write_answers(path, mt_bench_files.Answers(model, turns), tstamp=1.0)


def by_model(result: Result) -> dict[str, dict[str, Any]]:
    return {entry["model"]: entry for entry in lines(result)}


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


def prefer(messages: Sequence[dict[str, str]]) -> str:
    """Prefers the better word, and between others the first answer."""
    text = messages[-1]["content"]
    a, b = text.partition("assistant B")[0], text.partition("assistant B")[2]
    if "excellent" in a or "poor" in b:
        return "[[A]]"
    return "[[B]]" if "excellent" in b or "poor" in a else "[[A]] since it came first"


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


def test_mt_bench_compares_all_pairs_by_the_users_prompts(mt: list[object], tmp_path: Path) -> None:
    names = ("pair-v2", "pair-math-v1", "pair-v2-multi-turn", "pair-math-v1-multi-turn")
    rows = []
    for name in names:
        template = "{answer_a_2} assistant B {answer_b_2}" if "multi" in name else "{answer_a} assistant B {answer_b}"
        texts = {"name": name, "type": "pairwise", "system_prompt": "", "prompt_template": template}
        rows.append(texts | {"description": "", "category": "general", "output_format": "[[rating_a,rating_b]]"})
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    options = [*mt, "--mode", "pairwise-all", "--prompts", tmp_path / "prompts.jsonl"]
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


def test_mt_bench_by_an_annotator_of_pairs(tmp_path: Path) -> None:
    asked = [prompt for prompt in prompts(0, "test", 9) if len(prompt.messages) == 1][:6]
    questions = [mt_bench_files.Question(i, "iid", (p.messages[-1].content,)) for i, p in enumerate(asked)]
    mt_bench_files.write_questions(tmp_path / "question.jsonl", questions)
    answer_turns(tmp_path, "oracle", {i: (gold.oracle(prompt),) for i, prompt in enumerate(asked)})
    answer_turns(tmp_path, "silent", dict.fromkeys(range(len(asked)), ("",)))
    pool = tmp_path / "pool.yaml"
    judges = {"gold": {"judge": {"kind": "rubric"}}}
    pool.write_text(yaml.safe_dump({"cache": f"sqlite:///{tmp_path / 'v.db'}", "annotators": judges}))
    options = ["--questions", tmp_path / "question.jsonl", "--answers", tmp_path / "model_answer", "--judge", "gold"]
    options += ["--at", pool, "--output", tmp_path / "out", "--json"]
    figures = by_model(call("mt-bench", *options, "--mode", "pairwise-baseline", "--baseline", "silent"))
    assert (figures["oracle"]["win"], figures["oracle"]["n"]) == (6, 6)
    single = call("mt-bench", *options)
    assert single.exit_code == 2 and "the annotator gold compares pairs" in single.stderr


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


ARENA = [
    arena_files.Question("u1", "hard_prompt", "p1"),
    arena_files.Question("u2", "hard_prompt", "p2"),
    arena_files.Question("u3", "creative_writing", "p3"),
]


def arena_folder(folder: Path, questions: Sequence[arena_files.Question], words: dict[str, str]) -> list[object]:
    """Question and answer files of an Arena-Hard, and the command's options."""
    arena_files.write_questions(folder / "question.jsonl", questions)
    for model, word in words.items():
        answers = {question.id: arena_files.Answer(f"{word} to {question.prompt}") for question in questions}
        path = folder / "model_answer" / f"{model}.jsonl"
        arena_files.write_answers(path, arena_files.Answers(model, answers), questions, tstamp=1.0)
    options: list[object] = ["--questions", folder / "question.jsonl", "--answers", folder / "model_answer"]
    return [*options, "--output", folder / "out", "--judge", "judge", "--json"]


WORDS = {"good": "excellent", "bad": "poor", "base": "plain", "poet": "plain"}


def arena_label(messages: Sequence[dict[str, str]]) -> str:
    """Loves the excellent answer, gives no label on p2 at first, and none at all on the poor answer to p3."""
    text = messages[-1]["content"]
    if text.startswith("Go on"):
        first = messages[-3]["content"]
        return "still none" if "p3" in first else arena_label([{"role": "user", "content": first.replace("p2", "p")}])
    if "p2" in text or ("p3" in text and "poor" in text):
        return "I cannot say."
    mark = {"[[A]]": "[[A>>B]]", "[[B]]": "[[B>>A]]"}.get(prefer(messages), "[[A=B]]")
    return mark if "excellent" in text else mark.replace(">>", ">")


def test_arena_hard_plays_two_games_in_several_categories(tmp_path: Path) -> None:
    options = arena_folder(tmp_path, ARENA, WORDS)
    options += ["--baseline", "hard_prompt=base", "--baseline", "creative_writing=poet"]
    with Stub(says=arena_label) as stub:
        result = call("arena-hard", *options, "--base-url", stub.url)
        requests = len(stub.bodies)
        assert stub.bodies[0]["max_tokens"] == 16000
        again = call("arena-hard", *options, "--base-url", stub.url)
        assert len(stub.bodies) == requests and lines(again) == lines(result)
    boards = {entry["category"]: {row["model"]: row for row in entry["standings"]} for entry in lines(result)}
    assert list(boards) == ["hard_prompt", "creative_writing"]
    hard, creative = boards["hard_prompt"], boards["creative_writing"]
    assert hard["good"]["score"] == 100.0 and hard["bad"]["score"] == 0.0 and hard["base"]["score"] == 50.0
    assert (hard["good"]["n"], hard["good"]["null"]) == (2, 0)
    assert (creative["bad"]["score"], creative["bad"]["n"], creative["bad"]["null"]) == (None, 0, 1)
    assert creative["good"]["score"] == 100.0
    rows = list(read_jsonl(tmp_path / "out" / "judge" / "good.jsonl"))
    assert list(rows[0])[:6] == ["uid", "category", "judge", "model", "baseline", "games"]
    row = next(row for row in rows if row["uid"] == "u2")
    assert [game["score"] for game in row["games"]] == ["B>>A", "A>>B"]
    assert row["games"][0]["judgment"]["answer"].startswith("I cannot say.\n")
    assert re.search("plain to p2.*excellent to p2", row["games"][0]["prompt"][-1]["content"], re.DOTALL)


def test_arena_hard_of_the_first_version(tmp_path: Path) -> None:
    questions = [arena_files.Question(i, "arena-hard-v0.1", f"p {i}", "c", "v0.1") for i in range(4)]
    options = arena_folder(tmp_path, questions, {"good": "excellent", "same": "plain", "gpt-4-0314": "plain"})
    with Stub(says=arena_label) as stub:
        (entry,) = lines(call("arena-hard", *options, "--base-url", stub.url))
        assert stub.bodies[0]["max_tokens"] == 4096
    board = {row["model"]: row for row in entry["standings"]}
    assert (board["good"]["score"], board["same"]["score"]) == (pytest.approx(100.0), pytest.approx(50.0))
    assert board["same"]["rating"] == pytest.approx(1000.0) and board["gpt-4-0314"]["rating"] == 1000.0
    row = next(read_jsonl(tmp_path / "out" / "judge" / "good.jsonl"))
    assert list(row)[:4] == ["question_id", "judge", "model", "games"] and "baseline" not in row
    assert set(row["games"][0]) == {"user_prompt", "judgment", "score"}
    (counted,) = lines(call("arena-hard", "--judgments", tmp_path / "out" / "judge", "--json"))
    assert counted == entry
    assert "score, 95% as published" in call("arena-hard", "--judgments", tmp_path / "out" / "judge").stdout


def test_arena_hard_at_equal_style(tmp_path: Path) -> None:
    questions = [arena_files.Question(f"u{i}", "hard_prompt", f"p {i}") for i in range(12)]
    options = arena_folder(tmp_path, questions, {"good": "excellent **bold**", "bad": "poor", "base": "plain"})
    with Stub(says=arena_label) as stub:
        options += ["--base-url", stub.url, "--baseline", "base"]
        (entry,) = lines(call("arena-hard", *options, "--control", "length", "--control", "markdown"))
        shown = call("arena-hard", *options[:-5], *options[-4:], "--control", "markdown")
    assert list(entry["coefficients"]) == ["length", "headers", "lists", "bold"]
    assert {row["model"] for row in entry["controlled"]} == {"good", "bad", "base"}
    assert "hard_prompt, at equal markdown" in shown.stdout and "bold" in shown.stderr


def test_arena_hard_stops_at_the_budget_and_goes_on(tmp_path: Path) -> None:
    options = arena_folder(tmp_path, ARENA[:1] + [arena_files.Question("u9", "hard_prompt", "p9")], WORDS)
    options += ["--baseline", "base"]
    pool = tmp_path / "pool.yaml"
    with Stub(says=lambda messages: "[[A=B]]") as stub:
        section = {"kind": "llm", "model": "m", "base_url": stub.url, "max_tokens": 10, "concurrency": 1}
        settings = {"cache": f"sqlite:///{tmp_path / 'v.db'}", "annotators": {"judge": {"judge": section}}}
        pool.write_text(yaml.safe_dump(settings | {"budget": {"tokens": 1200}}))
        spent = call("arena-hard", *options, "--at", pool)
        assert spent.exit_code == 1 and "raise the limit under `budget`" in spent.stderr
        first_run = len(stub.bodies)
        pool.write_text(yaml.safe_dump(settings))
        (entry,) = lines(call("arena-hard", *options, "--at", pool))
        assert 0 < first_run < len(stub.bodies) and len(stub.bodies) <= 2 * 2 * 3 + 1
    assert {row["score"] for row in entry["standings"]} == {50.0}


def test_arena_hard_refuses_what_it_cannot_judge(tmp_path: Path) -> None:
    options = arena_folder(tmp_path, ARENA, WORDS)
    url = ["--base-url", "http://127.0.0.1:1/v1"]
    absent = call("arena-hard", *options, *url)
    assert absent.exit_code == 2 and "the baseline o3-mini-2025-01-31 are missing" in absent.stderr
    assert "known: hard_prompt, creative_writing" in call("arena-hard", *options, *url, "--category", "math").stderr
    assert "--rules is v0.1 or v2.0" in call("arena-hard", *options, "--rules", "v1").stderr
    assert "--baseline takes MODEL or CATEGORY=MODEL" in call("arena-hard", *options, "--baseline", "=x").stderr
    twice = call("arena-hard", *options, *url, "--answers", options[3] / "good.jsonl", "--at", "x")  # type: ignore[operator]
    assert twice.exit_code == 2 and "give either --at or --base-url" in twice.stderr


def test_the_public_questions_of_arena_hard_are_read(test_data: Path) -> None:
    questions = arena_files.read_questions(str(test_data / "arena_hard" / "v0.1_question.jsonl.gz"))
    assert len(questions) == 500 and {question.form for question in questions} == {"v2.0"}
    assert {question.category for question in questions} == {"arena-hard-v0.1"} and all(q.cluster for q in questions)
