from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rayalign.errors import InputError
from rayalign.evaluation import arena_files, arena_hard
from rayalign.evaluation.arena_games import is_open
from rayalign.evaluation.arena_prompts import read_arena_prompts
from rayalign.evaluation.arena_run import ArenaStudy
from rayalign.evaluation.arena_style import Style, style_controlled, style_features, style_of
from rayalign.statistics.ratings import bradley_terry


def judged(uid: int, first: str | None, second: str | None, model: str = "m", **more: Any) -> dict[str, Any]:
    """A judgment of v2.0; in its first game A is the baseline."""
    games: list[Any] = [{"score": first, "judgment": {"answer": ""}, "prompt": []}, {"score": second}]
    row = {"uid": uid, "category": "hard_prompt", "judge": "j", "model": model, "baseline": "base", "games": games}
    return row | more


def old(question_id: int, first: str | None, second: str | None, model: str = "m") -> dict[str, Any]:
    """A judgment of v0.1."""
    games = [{"user_prompt": "", "judgment": "", "score": label} for label in (first, second)]
    return {"question_id": question_id, "model": model, "judge": "j", "games": games}


@pytest.mark.parametrize(
    ("judgment", "v2", "v01"),
    [
        ("My verdict: [[A>B]]", "A>B", "A>B"),
        ("[[A>B]] at first; in the end [[B>>A]]", "B>>A", None),
        ("[[A=B]] and again [[A=B]]", "A=B", "A=B"),
        ("[[b>a]]", "B>A", None),
        ("[A>>B]", "A>>B", None),
        ("[B>A], or rather [[A=B]]", "A=B", "A=B"),
        ("[[A<B]]", "B>A", None),
        ("[[A]]", None, None),
        ("no label", None, None),
    ],
)
def test_a_label_is_read_by_the_rules_of_its_version(judgment: str, v2: str | None, v01: str | None) -> None:
    assert (arena_hard.label(judgment), arena_hard.label(judgment, "v0.1")) == (v2, v01)


def test_only_a_missing_label_is_asked_for_again_in_v01() -> None:
    assert is_open("no label", "v0.1") and is_open("no label", "v2.0")
    assert not is_open("[[A>B]] or [[B>A]]", "v0.1")
    assert not is_open("[[A>B]]", "v2.0")


def test_scores_of_two_games_weigh_a_strong_verdict() -> None:
    # game 2: the model is A and a little better; game 1: the baseline is A and much worse
    games = [{"score": "B>>A"}, {"score": "A>B"}]
    assert arena_hard.scores(games) == [1.0, 1.0, 1.0, 1.0]
    assert arena_hard.scores(games, weight=2) == [1.0, 1.0, 1.0]
    assert arena_hard.scores([{"score": "A=B"}, {"score": "B>>A"}]) == [0.0, 0.0, 0.0, 0.5]
    assert arena_hard.scores(["A<<B", "A=B"]) == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("null", [None, {"score": None}, {"score": "A>A"}, {"judgment": ""}])
def test_a_null_game_drops_the_judgment(null: Any) -> None:
    assert arena_hard.scores([null, {"score": "A>B"}]) == arena_hard.scores([{"score": "A>B"}, null]) == []


def test_scores_take_judgments_too() -> None:
    rows = [judged(1, "B>A", "A=B"), judged(2, None, "A>B"), judged(3, "A>B", "B>A")]
    assert arena_hard.scores(rows[0]) == [0.5, 1.0]
    assert arena_hard.scores(rows) == arena_hard.scores([row["games"] for row in rows]) == [0.5, 1.0, 0.0, 0.0]
    assert arena_hard.scores([]) == []
    with pytest.raises(InputError, match="has two games, this has 1"):
        arena_hard.scores([{"score": "A>B"}])


def test_a_leaderboard_has_seeded_bootstraps_and_the_baseline_at_50() -> None:
    rng = np.random.default_rng(0)
    labels = [str(label) for label in rng.choice(arena_hard.LABELS, size=200)]
    rows = [judged(i, labels[2 * i], labels[2 * i + 1]) for i in range(100)] + [judged(100, None, "A>B")]
    rows += [judged(i, "B>>A", "A>>B", "winner") for i in range(20)]
    rows += [judged(i, "A>A", "A>B", "silent") for i in range(3)]
    (standings,) = arena_hard.leaderboard(rows).values()
    assert [standing.model for standing in standings[:1]] == ["winner"] and standings[-1].model == "silent"
    by_model = {standing.model: standing for standing in standings}
    mine, winner, silent = by_model["m"], by_model["winner"], by_model["silent"]
    plain = 100.0 * float(np.mean(arena_hard.scores(rows[:100])))
    assert mine.score == pytest.approx(plain, abs=1.0) and (mine.n, mine.null) == (100, 1)
    assert mine.interval is not None and mine.interval.mean == pytest.approx(plain) and mine.interval.n == 100
    assert mine.lower < mine.score < mine.upper
    assert mine.interval.high - mine.interval.low > mine.upper - mine.lower  # 95% by prompt against 90% by score
    assert (winner.score, winner.lower, winner.upper) == (100.0, 100.0, 100.0)
    assert winner.interval is not None and winner.interval.low < 95.0
    assert math.isnan(silent.score) and (silent.n, silent.null, silent.interval) == (0, 3, None)
    assert by_model["base"][1:4] == (50.0, 50.0, 50.0)
    alone = arena_hard.leaderboard(rows[:101])["hard_prompt"]
    assert mine in alone  # the other models of a call change no figure
    assert arena_hard.leaderboard(rows, seed=1)["hard_prompt"][1].score != mine.score


def test_the_published_interval_is_the_middle_90_percent_of_100_resamples() -> None:
    rows = [judged(i, "B>A", "A>B") for i in range(50)] + [judged(50 + i, "A>B", "B>A") for i in range(50)]
    standing = {entry.model: entry for entry in arena_hard.leaderboard(rows)["hard_prompt"]}["m"]
    # 200 scores of 0 and 1: a standard error of 3.54 points, times 1.645 on either side
    assert standing.upper - standing.lower == pytest.approx(2 * 1.645 * 3.54, rel=0.3)


@pytest.mark.parametrize("rules", ["v0.1", "v2.0"])
def test_100_resamples_are_the_default_as_published(rules: Any) -> None:
    rows = [judged(i, "B>A", "A>B") for i in range(7)] + [judged(7 + i, "A>B", "A=B") for i in range(5)]
    default = arena_hard.leaderboard(rows, rules=rules)
    assert default == arena_hard.leaderboard(rows, rules=rules, rounds=100)
    assert default != arena_hard.leaderboard(rows, rules=rules, rounds=99)
    styled_rows, styles = long_wins(10)
    controlled = style_controlled(styled_rows, styles, rules=rules)
    assert controlled == style_controlled(styled_rows, styles, rules=rules, rounds=100)
    assert controlled != style_controlled(styled_rows, styles, rules=rules, rounds=99)


def test_several_categories_in_one_call_keep_their_rows() -> None:
    rows = [judged(1, "B>A", "A>B"), judged(2, "A>B", "B>A", category="creative_writing", baseline="poet")]
    boards = arena_hard.leaderboard(rows, categories=["creative_writing", "hard_prompt"])
    assert {name: board[0].model for name, board in boards.items()} == {"creative_writing": "poet", "hard_prompt": "m"}
    assert len(rows) == 2 and [len(board) for board in boards.values()] == [2, 2]
    with pytest.raises(InputError, match="category coding; known: hard_prompt, creative_writing"):
        arena_hard.leaderboard(rows, categories=["coding"])
    with pytest.raises(InputError, match="have the baselines base, x"):
        arena_hard.leaderboard([*rows, judged(3, "A>B", "A>B", baseline="x")])
    with pytest.raises(InputError, match="there is no judgment"):
        arena_hard.leaderboard([])


def test_judges_are_pooled() -> None:
    rows = [judged(1, "B>A", "A>B"), judged(1, "A>B", "B>A", judge="second")]
    standing = {entry.model: entry for entry in arena_hard.leaderboard(rows)["hard_prompt"]}["m"]
    assert standing.interval is not None and (standing.interval.mean, standing.interval.n, standing.n) == (50.0, 1, 2)


def test_v01_is_bradley_terry_with_each_null_game_left_out_alone() -> None:
    rows = [old(i, "A>B", "A>B") for i in range(30)] + [old(30 + i, "B>>A", "A=B") for i in range(20)]
    rows += [old(50, None, "A>B"), old(51, "A<B", None)]
    (board,) = arena_hard.leaderboard(rows, rules="v0.1").values()
    standing = {entry.model: entry for entry in board}["m"]
    # 30 losses and 30 wins, 20 times three wins and a tie, and one win: 30 + 60 + 10 + 1 of 141
    assert standing.score == pytest.approx(100 * 101 / 141) and (standing.n, standing.null) == (51, 3)
    assert {entry.model: entry.rating for entry in board}["gpt-4-0314"] == 1000.0
    matches = [("gpt-4-0314", "m", 1.0 + b.score) for b in arena_hard.battles(rows, rules="v0.1")]
    ratings = {rating.name: rating.rating for rating in bradley_terry(matches, baseline="gpt-4-0314", resamples=1)}
    assert standing.rating == pytest.approx(ratings["m"], abs=1e-6)
    # 141 battles: a standard error of 3.8 points, times 1.96 on either side
    assert standing.upper - standing.lower == pytest.approx(2 * 1.96 * 3.8, rel=0.3)
    sure = arena_hard.leaderboard([old(1, "B>A", "A>B")], rules="v0.1")["arena-hard-v0.1"][0]
    assert sure.score == pytest.approx(100.0) and math.isfinite(sure.rating or math.nan)


def style(tokens: int, headers: int = 0, lists: int = 0, bold: int = 0) -> dict[str, Any]:
    lists_by_kind = {"ordered": 0, "unordered": lists}
    return {"token_len": tokens, "header_count": {"h1": headers}, "list_count": lists_by_kind, "bold_count": bold}


def test_style_features_by_hand() -> None:
    features = style_features(style(99, headers=2, bold=10), style(49, lists=5))
    # densities 0.02 against 0, 0 against 0.1, 0.1 against 0
    assert features.tolist() == pytest.approx([50 / 148, 0.02 / 1.02, -0.1 / 1.1, 0.1 / 1.1])
    assert features.dtype == np.float64
    rows = [{"uid": 1, "metadata": style(99, headers=2, bold=10)}], [{"conv_metadata": style(49, lists=5)}]
    np.testing.assert_allclose(arena_hard.style_features(*rows), [features])
    np.testing.assert_allclose(style_features(style(0), style(0)), 0.0)
    with pytest.raises(InputError, match="an answer of the baseline for each"):
        style_features([style(1)], [style(1), style(2)])
    with pytest.raises(InputError, match="lacks token_len, bold_count"):
        style_features({"header_count": 0, "list_count": 0}, style(1))


def test_markdown_is_counted_outside_of_code() -> None:
    text = "# A\n\n## B\n- x\n  * y\n1. z\n**bold** and __this__\n```\n# no\n- no\n**no**\n```\n"
    counts = style_of(text)
    assert counts["header_count"] == {"h1": 1, "h2": 1, "h3": 0, "h4": 0, "h5": 0, "h6": 0}
    assert counts["list_count"] == {"ordered": 1, "unordered": 2} and counts["bold_count"] == {"**": 1, "__": 1}
    assert style_of("one, two.")["token_len"] == 4


def long_wins(prompts: int) -> tuple[list[dict[str, Any]], dict[str, dict[Any, Style]]]:
    """The judge likes length alone, `long` writes longer answers than `fair`, and markdown is drawn at random."""
    rng = np.random.default_rng(0)
    styles: dict[str, dict[Any, Style]] = {"base": {}, "long": {}, "fair": {}}
    rows = []
    for uid in range(prompts):
        styles["base"][uid] = style(100, *map(int, rng.integers(0, 9, size=3)))
        for name, middle in {"long": 180, "fair": 100}.items():
            tokens = int(rng.integers(middle - 70, middle + 70))
            styles[name][uid] = style(tokens, *map(int, rng.integers(0, 9, size=3)))
            share = 1.0 / (1.0 + math.exp(-6.0 * (tokens - 100) / (tokens + 100)))
            wins = rng.random(2) < share
            rows.append(judged(uid, "B>A" if wins[0] else "A>B", "A>B" if wins[1] else "B>A", name))
    return rows, styles


def test_style_control_takes_length_out() -> None:
    rows, styles = long_wins(300)
    raw = {entry.model: entry for entry in arena_hard.leaderboard(rows)["hard_prompt"]}
    assert raw["long"].score > 75.0 > 60.0 > raw["fair"].score
    controlled = style_controlled(rows, styles, control=["length"], rounds=30)["hard_prompt"]
    by_model = {entry.model: entry for entry in controlled.standings}
    # standardised over both models, the mean length is that of neither, so they meet but not at 50
    assert abs(by_model["long"].score - by_model["fair"].score) < 8.0 < raw["long"].score - raw["fair"].score
    assert list(controlled.coefficients) == ["length"] and controlled.coefficients["length"] > 0.5
    assert by_model["base"].score == 50.0
    assert by_model["long"].interval is not None and by_model["long"].interval.n == 300


def test_each_control_reads_its_own_columns() -> None:
    rows, styles = long_wins(150)
    both = style_controlled(rows, styles, rounds=10)["hard_prompt"].coefficients
    assert list(both) == ["length", "headers", "lists", "bold"]
    markdown = style_controlled(rows, styles, control=["markdown"], rounds=10)["hard_prompt"]
    assert list(markdown.coefficients) == ["headers", "lists", "bold"]
    raw = {entry.model: entry.score for entry in arena_hard.leaderboard(rows)["hard_prompt"]}
    by_model = {entry.model: entry.score for entry in markdown.standings}
    assert by_model["long"] == pytest.approx(raw["long"], abs=4.0)  # markdown decides nothing here
    assert abs(both["length"]) > 3 * max(abs(both[name]) for name in ("headers", "lists", "bold"))


def test_style_control_needs_answers_and_a_choice() -> None:
    rows, styles = long_wins(3)
    with pytest.raises(InputError, match="takes length and markdown, not colour"):
        style_controlled(rows, styles, control=["colour"])
    with pytest.raises(InputError, match="no answer of base to 0"):
        style_controlled(rows, {**styles, "base": {}})
    with pytest.raises(InputError, match="no judgment in hard_prompt has a label"):
        style_controlled([judged(1, None, None)], styles)


def test_a_baseline_of_one_category_is_judged_in_the_others() -> None:
    questions = [arena_files.Question("1", "code", "write"), arena_files.Question("2", "poem", "sing")]
    texts = {"1": arena_files.Answer("a"), "2": arena_files.Answer("b")}
    answers = [arena_files.Answers(name, texts) for name in ("coder", "poet", "m")]
    study = ArenaStudy(questions, answers, "v2.0", read_arena_prompts(None), {"code": "coder", "poem": "poet"})
    assert study.models == ["coder", "poet", "m"]
    met = {name: [match.models for match in study.matches(name, "j")] for name in study.models}
    assert met["coder"] == [("coder", "poet")] and met["poet"] == [("poet", "coder")]
    assert met["m"] == [("m", "coder"), ("m", "poet")]
