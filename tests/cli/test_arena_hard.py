"""`rayalign evaluate arena-hard` against a fake endpoint and the embedded annotators."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from rayalign.evaluation import arena_files
from rayalign.storage.records import read_jsonl, write_jsonl
from tests.annotator.stub_endpoint import Stub
from tests.cli.benchmarks import call, lines, prefer
from tests.evaluation import arena_rows

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
    (counted,) = lines(call("arena-hard", "--judgments", tmp_path / "out" / "judge", "--json"))
    assert counted == entry
    assert "score, 95% as published" in call("arena-hard", "--judgments", tmp_path / "out" / "judge").stdout


@pytest.mark.parametrize("version", arena_rows.VERSIONS)
def test_arena_hard_makes_public_judgments_of_public_files(tmp_path: Path, version: str) -> None:
    write_jsonl(tmp_path / "question.jsonl", [arena_rows.QUESTIONS[version]])
    for row in arena_rows.ANSWERS[version]:
        write_jsonl(tmp_path / "model_answer" / f"{row.get('model') or row['model_id']}.jsonl", [row])
    settings = {"prompt_template": [arena_rows.TEMPLATES[version]], "system_prompt": arena_rows.SYSTEM, "judge": "x"}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    options: list[object] = ["--questions", tmp_path / "question.jsonl", "--answers", tmp_path / "model_answer"]
    options += ["--prompts", tmp_path / "settings.yaml", "--output", tmp_path, "--judge", arena_rows.JUDGE, "--json"]
    expected = arena_rows.JUDGMENTS[version]
    path = tmp_path / arena_rows.JUDGE / f"{arena_rows.MODEL}.jsonl"
    with Stub(says=lambda messages: arena_rows.judgment_text(messages[-1]["content"])) as stub:
        made = lines(call("arena-hard", *options, "--base-url", stub.url))
        assert len(stub.bodies) == 2
        (row,) = read_jsonl(path)
        assert row == {**expected, "price": 0.0, "seconds": row["seconds"]}
        assert list(row) == [*expected, "price", "seconds"]
        write_jsonl(path, [expected])  # as another program writes it
        assert lines(call("arena-hard", *options, "--base-url", stub.url)) == made
        assert len(stub.bodies) == 2


def test_arena_hard_sends_the_prompts_of_the_user(tmp_path: Path) -> None:
    options = arena_folder(tmp_path, [ARENA[0], ARENA[2]], {"good": "excellent", "base": "plain"})
    settings = {
        "prompt_template": "{QUESTION} / {ANSWER_A} / {ANSWER_B} / judge it",
        "system_prompt": {"default": "Be strict.", "creative_writing": "Be kind."},
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    options += ["--prompts", tmp_path / "settings.yaml", "--baseline", "base"]
    with Stub(says=lambda messages: "[[A=B]]") as stub:
        lines(call("arena-hard", *options, "--base-url", stub.url))
    sent = {tuple(message["content"] for message in body["messages"]) for body in stub.bodies}
    assert sent == {
        ("Be strict.", "p1 / plain to p1 / excellent to p1 / judge it"),
        ("Be strict.", "p1 / excellent to p1 / plain to p1 / judge it"),
        ("Be kind.", "p3 / plain to p3 / excellent to p3 / judge it"),
        ("Be kind.", "p3 / excellent to p3 / plain to p3 / judge it"),
    }


def test_arena_hard_counts_existing_judgments_of_the_second_version(tmp_path: Path) -> None:
    def judgment(uid: str, first: str | None, second: str, **more: str) -> dict[str, object]:
        labels = (first, second)
        games = [{"score": label, "judgment": {"answer": f"[[{label}]]"}, "prompt": []} for label in labels]
        return {**arena_rows.JUDGMENTS["v2.0"], "uid": uid, "games": games, **more}

    rows = [
        judgment("u1", "B>A", "A>>B"),  # a win, and one that counts three times
        judgment("u2", "A>B", "B=A"),  # a loss and a tie
        judgment("u3", None, "A>B"),  # v2.0 leaves out both games
        judgment("u4", "A=B", "A=B", category="creative_writing", baseline="poet"),
    ]
    write_jsonl(tmp_path / "judge" / "knotter.jsonl", rows)
    write_jsonl(tmp_path / "judge" / "other.jsonl", [judgment("u1", "A<<B", "A>>B", model="other")])
    hard, creative = lines(call("arena-hard", "--judgments", tmp_path / "judge", "--json"))
    assert (hard["category"], creative["category"]) == ("hard_prompt", "creative_writing")
    board = {row["model"]: row for row in hard["standings"]}
    assert list(board) == ["other", "knotter", "o3-mini-2025-01-31"]
    assert (board["knotter"]["n"], board["knotter"]["null"]) == (2, 1)
    assert board["knotter"]["interval"]["mean"] == pytest.approx(100 * 4.5 / 6)
    assert board["other"]["score"] == 100.0 and {row["rating"] for row in board.values()} == {None}
    assert {row["model"]: row["score"] for row in creative["standings"]} == {"poet": 50.0, "knotter": 50.0}
    (plain,) = lines(
        call("arena-hard", "--judgments", tmp_path / "judge", "--weight", 1, "--category", "hard_prompt", "--json")
    )
    by_model = {row["model"]: row for row in plain["standings"]}
    assert by_model["knotter"]["interval"]["mean"] == pytest.approx(100 * 2.5 / 4)
    shown = call("arena-hard", "--judgments", tmp_path / "judge").stdout
    assert "score, 90% as published" in shown and "rating" not in shown


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
