from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rayalign.errors import InputError
from rayalign.evaluation import mt_bench
from rayalign.evaluation.mt_bench_files import (
    Answers,
    Question,
    read_answers,
    read_judgments,
    read_questions,
    references_for,
    write_answers,
    write_questions,
)
from rayalign.evaluation.mt_bench_prompts import PUBLISHED, prompts_for, read_prompts, write_prompts
from rayalign.storage.records import read_jsonl, write_jsonl


def graded(question_id: int, score: float, turn: int = 1, model: str = "m") -> dict[str, Any]:
    return {"question_id": question_id, "model": model, "judge": ["j", "p"], "score": score, "turn": turn}


def pair(question_id: int, first: str, second: str, names: tuple[str, str] = ("m", "base")) -> dict[str, Any]:
    row = {"question_id": question_id, "model_1": names[0], "model_2": names[1], "judge": ["j", "p"], "turn": 1}
    return row | {"g1_winner": first, "g2_winner": second}


@pytest.mark.parametrize(
    ("judgment", "rating"),
    [
        ("Rating: [[5]]", 5),
        ("[3] at first, then [[7.5]]", 7.5),  # double brackets come first wherever they stand
        ("Rating: [8]", 8),
        ("[[2]] and [[9]]", 2),
        ("[[10.]]", 10.0),
        ("[[-3]]", -1),
        ("five of ten", -1),
        (f"[[{'9' * 400}]]", -1),
    ],
)
def test_a_rating_is_read_as_published(judgment: str, rating: float) -> None:
    assert mt_bench.rating(judgment) == rating
    assert isinstance(mt_bench.rating("[[5]]"), int) and isinstance(mt_bench.rating("[[5.0]]"), float)


@pytest.mark.parametrize(
    ("judgment", "winner"),
    [
        ("so [[B]] is it", "B"),
        ("[[C]]", "tie"),
        ("not [[B]] but [[A]]", "A"),  # A is looked for first, wherever it stands
        ("[[C]] or [[B]]", "B"),
        ("[A]", "error"),
        ("", "error"),
    ],
)
def test_a_verdict_is_a_mark_in_the_text(judgment: str, winner: str) -> None:
    assert mt_bench.winner(judgment) == winner


@pytest.mark.parametrize(
    ("judgment", "winner"),
    [
        ("[[8, 7]]", "A"),
        ("[[8,8.05]]", "tie"),
        ("[[7, 7.2]]", "B"),
        ("[6,9]", "B"),
        ("[1,2] then [[9,3]]", "A"),
        ("8 to 7", "error"),
    ],
)
def test_two_scores_are_a_verdict(judgment: str, winner: str) -> None:
    assert mt_bench.winner(judgment, "[[rating_a,rating_b]]") == winner
    with pytest.raises(InputError, match="output format"):
        mt_bench.winner(judgment, "[[rating]]")


def test_swapped_games_name_their_winners() -> None:
    assert mt_bench.winners("A", "A") == ("model_1", "model_2")
    assert mt_bench.winners("B", "tie") == ("model_2", "tie")
    assert mt_bench.winners("error", "B") == ("error", "model_1")


def test_pairwise_counts_disagreement_as_a_tie_and_drops_errors() -> None:
    rows = [
        pair(1, "model_1", "model_1"),  # a win
        pair(2, "model_2", "model_2"),  # a loss
        pair(3, "model_1", "model_2"),  # the games disagree
        pair(4, "tie", "model_1"),  # so do these
        pair(5, "tie", "tie"),
        pair(6, "error", "model_1"),
        pair(7, "model_1", "model_1", ("other", "m")),  # a loss from the second place
        pair(8, "model_1", "model_1", ("other", "base")),
    ]
    result = mt_bench.pairwise(rows, "m")
    assert (result.win, result.loss, result.tie, result.n, result.errors) == (1, 2, 3, 6, 1)
    assert result.inconsistent == 2
    assert result.adjusted == pytest.approx(2.5 / 6) and result.win_rate == pytest.approx(1 / 6)
    assert result.win_rate_adjusted == result.adjusted
    assert result.loss_rate == pytest.approx(2 / 6)
    assert result.interval is not None and result.interval.mean == pytest.approx(2.5 / 6)
    assert mt_bench.pairwise(rows, "base").win == 1 + 0 and mt_bench.pairwise(rows, "base").loss == 1 + 1
    only = mt_bench.pairwise(rows, "m", baseline="base")
    assert (only.n, only.loss) == (5, 1)


def test_pairwise_without_a_verdict_or_a_judgment() -> None:
    nothing = mt_bench.pairwise([pair(1, "error", "error")], "m")
    assert (nothing.n, nothing.errors, nothing.interval) == (0, 1, None) and math.isnan(nothing.adjusted)
    with pytest.raises(InputError, match="no judgment is about z against base"):
        mt_bench.pairwise([pair(1, "tie", "tie")], "z", baseline="base")
    old = {"question_id": 1, "model_1": "m", "model_2": "x", "winner": "model_1"}
    assert mt_bench.pairwise([old], "m").win == 1


def test_means_by_turn_leave_out_what_has_no_rating() -> None:
    rows = [graded(1, 8), graded(1, 4, turn=2), graded(2, 6), graded(2, -1, turn=2), graded(3, 1, model="x")]
    result = mt_bench.single(rows, "m")
    assert result.mean is not None and result.first_turn is not None and result.second_turn is not None
    assert (result.mean.mean, result.first_turn.mean, result.second_turn.mean) == (6.0, 7.0, 4.0)
    assert (result.rated, result.dropped, result.mean.n) == (3, 1, 2)
    assert 1.0 <= result.mean.low < 6.0 < result.mean.high <= 10.0
    assert mt_bench.single([graded(1, -1)], "m").mean is None
    with pytest.raises(InputError, match="no judgment is about z"):
        mt_bench.single(rows, "z")


def test_figures_by_category_keep_the_order_of_the_questions() -> None:
    rows = [graded(2, 3), graded(1, 9), graded(2, 5, turn=2), graded(7, 1)]
    figures = mt_bench.by_category(rows, {1: "math", 2: "coding", 3: "stem"}, lambda part: mt_bench.single(part, "m"))
    assert {name: figure.mean.mean for name, figure in figures.items() if figure.mean} == {"math": 9.0, "coding": 4.0}
    assert list(figures) == ["math", "coding"]


def test_public_files_are_read_and_written(tmp_path: Path) -> None:
    questions = [Question(81, "writing", ("a", "b")), Question(101, "math", ("c", "d"), ("e", "f"))]
    write_questions(tmp_path / "question.jsonl", questions)
    assert read_questions(str(tmp_path / "question.jsonl")) == questions
    answers = Answers("m.v1", {81: ("x", "y"), 101: ("z", "")})
    write_answers(tmp_path / "model_answer" / "m.v1.jsonl", answers, tstamp=1.5)
    assert read_answers(tmp_path / "model_answer") == [answers]
    row = next(read_jsonl(tmp_path / "model_answer" / "m.v1.jsonl"))
    assert list(row) == ["question_id", "answer_id", "model_id", "choices", "tstamp"]
    assert row["choices"] == [{"index": 0, "turns": ["x", "y"]}]
    prompts = {f"p{i}": prompt for i, prompt in enumerate([prompts_for("single", None).plain])}
    write_prompts(tmp_path / "prompts.jsonl", prompts)
    assert list(read_prompts(tmp_path / "prompts.jsonl").values()) == list(prompts.values())


def test_half_of_an_emoji_in_an_answer_can_be_written_again(tmp_path: Path) -> None:
    row = '{"question_id": 1, "model_id": "m", "choices": [{"index": 0, "turns": ["cut \\ud83d"]}]}'
    (tmp_path / "m.jsonl").write_text(row + "\n")
    (answers,) = read_answers(tmp_path / "m.jsonl")
    assert answers.turns == {1: ("cut ?",)}
    write_answers(tmp_path / "again.jsonl", answers, tstamp=0.0)


def test_a_question_of_the_hub_has_its_own_names(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "q.jsonl", [{"prompt_id": 81, "category": "stem", "prompt": ["a", "b"], "reference": []}])
    assert read_questions(str(tmp_path / "q.jsonl")) == [Question(81, "stem", ("a", "b"))]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"question_id": 1, "category": "math", "turns": []}], "one or two texts, this holds 0"),
        ([{"question_id": 1, "category": "math", "turns": "a"}], "must be a list of texts"),
        ([{"question_id": 1, "category": "math", "turns": [None]}], "must hold texts, this holds NoneType"),
        ([{"category": "math", "turns": ["a"]}], "`question_id` must be"),
        ([{"question_id": 1, "category": "math", "turns": ["a"]}] * 2, "the question 1 occurs twice"),
    ],
)
def test_a_bad_question_is_named(tmp_path: Path, rows: list[dict[str, Any]], problem: str) -> None:
    write_jsonl(tmp_path / "q.jsonl", rows)
    with pytest.raises(InputError, match=problem):
        read_questions(str(tmp_path / "q.jsonl"))


def test_bad_answers_and_judgments_are_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"question_id": 1, "choices": []}])
    with pytest.raises(InputError, match=r"a.jsonl:1: `choices` must be"):
        read_answers(tmp_path / "a.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no .jsonl file"):
        read_answers(tmp_path / "empty")
    write_jsonl(tmp_path / "j.jsonl", [graded(1, 5)])
    assert len(read_judgments(tmp_path / "j.jsonl", "single")) == 1
    with pytest.raises(InputError, match="is no pairwise judgment, it lacks model_1, model_2, g1_winner, g2_winner"):
        read_judgments(tmp_path / "j.jsonl", "pairwise")
    write_jsonl(tmp_path / "j.jsonl", [graded(1, 5) | {"score": None}])
    with pytest.raises(InputError, match="`score` must be a number"):
        read_judgments(tmp_path / "j.jsonl", "single")


def test_references_come_from_the_file_or_the_question(tmp_path: Path) -> None:
    questions = [Question(1, "math", ("a", "b"), ("c", "d")), Question(2, "writing", ("a",))]
    assert references_for(questions, None) == {1: ("c", "d")}
    write_answers(tmp_path / "gpt.jsonl", Answers("gpt", {1: ("x", "y")}), tstamp=0.0)
    assert references_for(questions, tmp_path / "gpt.jsonl") == {1: ("x", "y")}
    with pytest.raises(InputError, match=r"1 questions .* have none \(9\)"):
        references_for([Question(9, "coding", ("a", "b"), ("only one",))], None)


def test_the_own_prompts_fill_every_field() -> None:
    names = ("question", "question_1", "question_2", "answer", "answer_1", "answer_2", "answer_a", "answer_b")
    names += ("answer_a_1", "answer_a_2", "answer_b_1", "answer_b_2", "ref_answer_1", "ref_answer_2")
    fields = {name: f"<{name}>" for name in names}
    for kind in PUBLISHED:
        prompts = prompts_for(kind, None)
        texts = {}
        for reference, second in [(False, False), (True, False), (False, True), (True, True)]:
            prompt = prompts.choose(reference=reference, second_turn=second)
            system, user = prompt.messages(fields)
            texts[prompt.name] = user["content"]
            assert ("ref_answer" in user["content"]) == reference and ("question_2" in user["content"]) == second
            assert ("[[5]]" if kind == "single" else "[[C]]") in system["content"]
        assert len(texts) == 4
        with pytest.raises(InputError, match="is no field of it"):
            prompts.plain.messages({})


def test_a_prompt_file_that_lacks_a_mode_is_refused(tmp_path: Path) -> None:
    write_prompts(tmp_path / "p.jsonl", {"x": prompts_for("single", None).plain})
    with pytest.raises(InputError, match="lacks the judge prompts pair-v2, pair-math-v1"):
        prompts_for("pairwise", tmp_path / "p.jsonl")


def test_the_public_sets_are_read(test_data: Path, tmp_path: Path) -> None:
    home = test_data / "mt_bench"
    questions = read_questions(str(home / "question.jsonl"))
    assert Counter(question.category for question in questions).most_common(1)[0][1] == 10 and len(questions) == 80
    references = references_for(questions, home / "reference_answer_gpt-4.jsonl")
    assert len(references) == 30
    (answers,) = read_answers(home / "reference_answer_gpt-4.jsonl")
    assert answers.model == "gpt-4"
    for kind in PUBLISHED:
        prompts = prompts_for(kind, home / "judge_prompts.jsonl")
        chosen = prompts.choose(reference=True, second_turn=True)
        assert chosen.name == PUBLISHED[kind][3] and chosen.type == kind
    write_prompts(tmp_path / "prompts.jsonl", read_prompts(home / "judge_prompts.jsonl"))
    assert list(read_jsonl(tmp_path / "prompts.jsonl")) == list(read_jsonl(home / "judge_prompts.jsonl"))
    vicuna = read_questions(str(test_data / "vicuna_bench" / "question.jsonl"))
    assert len(vicuna) == 80 and {len(question.turns) for question in vicuna} == {1}
