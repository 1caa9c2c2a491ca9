from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from rayalign.annotator.asking import connect as connect_module
from rayalign.annotator.asking.api import Annotation, PairItem
from rayalign.cli import app
from rayalign.config import EvaluateStage
from rayalign.pipeline.win_rates import compare
from rayalign.storage.records import write_jsonl

PUBLISHED = ("win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def file(path: Path, name: str, preferences: list[float | None], **more: Any) -> Path:
    rows = [
        {"instruction": f"q{i}", "output_1": "b" * (20 + i), "generator_1": "base", "output_2": "m" * (20 + 7 * i % 31),
         "generator_2": name, "annotator": "judge", "preference": p} | more
        for i, p in enumerate(preferences)
    ]  # fmt: skip
    path.write_text(json.dumps(rows))
    return path


def test_every_published_file_gives_its_leaderboard_row(test_data: Path) -> None:
    home = test_data / "alpaca_eval"
    folders = {1: "alpaca_eval_gpt4", 2: "weighted_alpaca_eval_gpt4_turbo"}
    for version, folder in folders.items():
        with (home / f"leaderboard_alpaca_eval_{version}.csv").open() as table:
            published = {row[""]: row for row in csv.DictReader(table)}
        files = [home / model / folder / "annotations.json.gz" for model in published]
        found = lines(call("win-rate", *files, "--json"))
        assert [row["name"] for row in found] == list(published)
        for row in found:
            for name in (*PUBLISHED, "avg_length"):
                assert row[name] == pytest.approx(float(published[row["name"]][name]), abs=1e-6), (row["name"], name)
            assert row["low"] < row["win_rate"] < row["high"]
    assert sum(1 for _ in home.glob("*/*/annotations.json.gz")) == 12


def test_win_rate_against_another_model(tmp_path: Path) -> None:
    a = file(tmp_path / "a.json", "a", [2.0] * 30 + [1.0] * 10)
    b = file(tmp_path / "b.json", "b", [2.0] * 10 + [1.0] * 20 + [None] * 10)
    board = tmp_path / "board.csv"
    (row,) = lines(call("win-rate", a, "--against", b, "--detect", 10, "--leaderboard", board, "--json"))
    assert (row["win_rate"], row["against"], row["difference"]["n"]) == (75.0, "b", 30)
    assert row["difference"]["mean"] == pytest.approx(100 * 20 / 30)
    assert row["p_value"] < 0.001
    # deviation of twenty hundreds and ten zeros 47.95: (2.80158 * 4.795)^2 = 180.5
    assert row["minimum_prompts"] == 181
    assert board.read_text().splitlines()[1].startswith("a,75.0,")
    shown = call("win-rate", a, b, "--detect", 5)
    assert "75.0 [" in shown.stdout and "30/10/0" in shown.stdout and "prompts needed" in shown.stdout


def test_the_win_rates_of_a_runs_final_records_are_those_of_its_report(tmp_path: Path) -> None:
    values = {"sft": {"a": 0.2, "b": 0.5, "c": 0.8, "d": 0.5}, "ppo": {"a": 0.9, "b": 0.5, "c": 0.9, "d": 0.1}}
    stage = EvaluateStage(kind="evaluate", models={"sft": "s", "ppo": "p"}, metric="gold_utility")
    results, _ = compare(stage, values, seed=0)
    (reported,) = [row["mean"] for row in results if row["metric"] == "win_rate_by_gold_against_sft"]
    records: list[dict[str, Any]] = []
    for model, own in values.items():
        for prompt, value in own.items():
            answer = {"prompt_id": prompt, "prompt": prompt, "answer": f"{model}: {prompt}", "value": value}
            records.append({"model": model, **answer})
    write_jsonl(tmp_path / "records.jsonl", records)
    (row,) = lines(call("win-rate", tmp_path / "records.jsonl", "--json"))
    assert (row["name"], row["baseline"]) == ("ppo", "sft")
    assert row["win_rate"] == reported == 62.5


def test_wrong_files_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    good = file(tmp_path / "good.json", "a", [1.0])
    bad = file(tmp_path / "bad.json", "b", [1.0, 3.0])
    result = call("win-rate", good, bad, "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    told = f"rayalign: {bad}: row 2: `preference` must be 1 to 2, or 0 for a draw, this is 3.0\n"
    assert result.stderr == told
    unjudged = call("win-rate", file(tmp_path / "none.json", "c", [None, None]))
    assert unjudged.exit_code == 2 and f"{tmp_path / 'none.json'}: no row has a verdict" in unjudged.stderr


def test_a_single_verdict_has_no_error_in_json(tmp_path: Path) -> None:
    (row,) = lines(call("win-rate", file(tmp_path / "a.json", "a", [2.0]), "--detect", 5, "--json"))
    assert (row["standard_error"], row["minimum_prompts"]) == (None, None)
    # Wilson's interval of one win of one: z^2 / (1 + z^2) is what it leaves to the loser
    assert (row["low"], row["high"]) == pytest.approx((100 / 4.8415, 100.0), abs=1e-3)


def test_verdicts_that_are_all_alike_are_not_certain(tmp_path: Path) -> None:
    won = file(tmp_path / "a.json", "a", [2.0] * 20)
    lost = file(tmp_path / "b.json", "b", [1.0] * 20)
    (row,) = lines(call("win-rate", won, "--against", lost, "--detect", 5, "--json"))
    assert row["low"] < 90 and row["difference"]["low"] < 80 and row["high"] == row["difference"]["high"] == 100.0
    assert row["minimum_prompts"] is None  # nothing is known of a deviation that was never seen
    assert "None" not in call("win-rate", won, "--detect", 5).stdout


def test_a_name_is_shown_as_it_is(tmp_path: Path) -> None:
    for name in ("tuned [v2]", "tuned [/v2]", "tuned :smile:"):
        assert name in call("win-rate", file(tmp_path / "a.json", name, [2.0])).stdout


def test_options_that_say_nothing_are_refused(tmp_path: Path) -> None:
    a = file(tmp_path / "a.json", "a", [2.0])
    for wrong in ("0", "-3", "nan"):
        refused = call("win-rate", a, "--detect", wrong)
        assert refused.exit_code == 2 and "--detect must be more than 0 points" in refused.stderr
    two = tmp_path / "two.json"
    two.write_text(
        json.dumps(json.loads(a.read_text()) + json.loads(file(tmp_path / "b.json", "b", [1.0]).read_text()))
    )
    refused = call("win-rate", a, "--against", two)
    assert refused.exit_code == 2 and "two.json: holds verdicts on a, b" in refused.stderr
    silent = call("win-rate", a, "--against", file(tmp_path / "c.json", "c", [None]))
    assert silent.exit_code == 2 and "no prompt on which both models have a verdict" in silent.stderr


@pytest.mark.parametrize("place", ["", "a.json/board.csv", "folder"])
def test_a_leaderboard_that_cannot_be_written_is_one_line(tmp_path: Path, place: str) -> None:
    a = file(tmp_path / "a.json", "a", [2.0])
    (tmp_path / "folder").mkdir()
    refused = call("win-rate", a, "--leaderboard", tmp_path / place)
    assert refused.exit_code == 2 and len(refused.stderr.splitlines()) == 1


def test_length_control_fits_and_shares_difficulty(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = [file(tmp_path / f"{n}.json", n, (1.0 + rng.random(60) ** 0.4).tolist()) for n in "ab"]
    rows = lines(call("length-control", *files, "--json"))
    assert [row["name"] for row in rows] == ["a", "b"]
    for row in rows:
        assert row["low"] <= row["length_controlled_winrate"] <= row["high"]
        assert not any("no difficulty" in w for w in row["warnings"])
    again = call("length-control", files[0], file(tmp_path / "again.json", "a", [1.0] * 30 + [2.0] * 30))
    assert "warning: a: no difficulty" in again.stderr  # a file of the same model is no other model
    alone = call("length-control", files[0])
    assert alone.exit_code == 0 and "warning: a: no difficulty" in alone.stderr and "a " in alone.stdout


def test_length_control_from_published_coefficients(tmp_path: Path) -> None:
    run = file(tmp_path / "a.json", "a", [1.0, 2.0])
    table, hard = tmp_path / "c.csv", tmp_path / "d.csv"
    table.write_text(",np.tanh(std_delta_len),instruction_difficulty,not_gamed_baseline.astype(float)\na,-1,1,0\n")
    hard.write_text(",instruction_difficulty\n0,0.5\n1,-0.5\n")
    (row,) = lines(call("length-control", run, "--coefficients", table, "--difficulty", hard, "--json"))
    assert row["length_controlled_winrate"] == pytest.approx(50.0)
    assert (row["low"], row["penalty"], row["coefficients"]["length"]) == (None, None, -1.0)
    other = call("length-control", file(tmp_path / "z.json", "z", [1.0]), "--coefficients", table, "--difficulty", hard)
    assert other.exit_code == 2 and "no coefficients of z; known: a, as --model" in other.stderr
    unnamed = file(tmp_path / "z.json", "z", [1.0, 2.0])
    named = call("length-control", unnamed, "--coefficients", table, "--difficulty", hard, "--model", "a", "--json")
    assert lines(named)[0]["coefficients"] == row["coefficients"]
    assert "needs --difficulty" in call("length-control", run, "--coefficients", table).stderr


def test_agreement_with_people_and_of_all_raters(tmp_path: Path) -> None:
    judge = file(tmp_path / "judge.json", "m", [1.0, 2.0, 1.0, 2.0])
    people = tmp_path / "people.json"
    rows = []
    for name, labels in {"ann": [1, 2, 2, 2], "bo": [1, 2, 1, 2], "cy": [1, 2, 2, 1]}.items():
        rows += json.loads(file(tmp_path / "x.json", "m", labels, annotator=name).read_text())
    people.write_text(json.dumps(rows))
    (found,) = lines(call("agreement", judge, "--humans", people, "--json"))
    assert (found["n"], found["unmatched"]) == (4, 0)
    assert found["judges"][0]["judge"]["mean"] == pytest.approx(75.0)
    assert found["judges"][0]["variance"] is None
    assert len(found["kappas"]) == 6
    runs = [file(tmp_path / f"run{i}.json", "m", p) for i, p in enumerate(([1.0, 2.0], [1.0, 1.0], [1.0, 2.0]))]
    (twice,) = lines(call("agreement", *runs, "--runs", "--humans", people, "--json"))
    assert (twice["unmatched"], len(twice["judges"])) == (2, 1)
    # the second pair's 2, 1, 2: the others of a 2 tie and go to the larger, the 1 stands against two 2
    assert twice["judges"][0]["variance"] == pytest.approx(100 * 1 / 6)
    shown = call("agreement", *runs, "--humans", people)
    assert "ann and bo" in shown.stdout and "2 pairs were labelled" in shown.stderr
    assert "agreement" not in call("agreement", *runs).stdout


def test_raters_share_verdicts_and_people_need_no_judge(tmp_path: Path) -> None:
    rows = []
    for name, labels in {"ann": [1, 2] * 10, "bo": [1, 2] * 9 + [1, 1], "cy": [1, 2] * 9 + [2, 2]}.items():
        rows += json.loads(file(tmp_path / "x.json", "m", labels, annotator=name).read_text())
    people = tmp_path / "people.json"
    people.write_text(json.dumps(rows))
    (found,) = lines(call("agreement", "--humans", people, "--json"))
    assert [k["same"]["mean"] for k in found["kappas"]] == [95.0, 95.0, 90.0]
    # 18 cases of one mind, two of 2 to 1; 30 of 60 labels are 1 and 30 are 2
    assert found["fleiss"]["kappa"] == pytest.approx(((18 + 2 / 3) / 20 - 0.5) / 0.5)
    assert "3 people on each of 20 pairs (Fleiss)" in call("agreement", "--humans", people).stdout
    unnamed = call("agreement", people)
    assert unnamed.exit_code == 2 and "name a file of several people as --humans" in unnamed.stderr


def test_nothing_to_agree_on_is_said(tmp_path: Path) -> None:
    a, b = file(tmp_path / "a.json", "a", [2.0, None]), file(tmp_path / "b.json", "b", [None, 1.0])
    assert "give files of verdicts" in call("agreement").stderr
    for files in ((a,), (a, b)):
        refused = call("agreement", *files)
        assert refused.exit_code == 2 and "no two raters labelled a pair in common" in refused.stderr


def test_raters_who_never_disagree_have_no_interval_of_kappa(tmp_path: Path) -> None:
    files = [file(tmp_path / f"{n}.json", "m", [1.0, 2.0] * 20) for n in "ab"]
    (found,) = lines(call("agreement", *files, "--json"))
    (kappa,) = found["kappas"]
    assert (kappa["mean"], kappa["low"], kappa["high"]) == (1.0, None, None)
    assert kappa["same"]["low"] < 95.0


class Longer:
    """Stands in for an annotator: prefers the longer answer."""

    def annotate(self, rows: Iterable[PairItem]) -> Iterator[Annotation]:
        for index, row in enumerate(rows):
            preference = 1.0 + (len(row.output_2) > len(row.output_1))
            yield Annotation(index=index, annotator="longer", preference=preference)

    def close(self) -> None:
        pass


@pytest.fixture
def annotator(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where the command looked for its annotator, which is `Longer`."""
    asked: list[str] = []

    def connect(where: str, name: str) -> Longer:
        asked.append(where)
        return Longer()

    monkeypatch.setattr(connect_module, "connect", connect)
    return asked


def outputs(path: Path, name: str, answers: list[str]) -> Path:
    path.write_text(
        json.dumps([{"instruction": f"q{i}", "output": a, "generator": name} for i, a in enumerate(answers)])
    )
    return path


def test_head_to_head_writes_what_win_rate_reads(tmp_path: Path, annotator: list[str]) -> None:
    base = outputs(tmp_path / "base.json", "base", ["aa", "aa", "aa", "aa"])
    models = [outputs(tmp_path / f"{n}.json", n, a) for n, a in {"x": ["a", "aaa", "aaa"], "y": ["a"] * 4}.items()]
    where = "http://127.0.0.1:8000"
    (found,) = lines(
        call("head-to-head", *models, "--at", where, "--baseline", base, "--output", tmp_path / "out", "--json")
    )
    assert annotator == [where]
    assert [(r["name"], r["n_wins"], r["n_total"]) for r in found["results"]] == [("x", 2, 3), ("y", 0, 4)]
    assert found["ratings"] == []
    assert found["notes"] == ["x lacks, of base: 1 ('q3')", found["notes"][1]]
    assert "y never won from base, x" in found["notes"][1]
    again = lines(call("win-rate", tmp_path / "out" / "annotations.json", "--json"))
    assert [(r["name"], r["win_rate"]) for r in again] == [(r["name"], r["win_rate"]) for r in found["results"]]
    board = (tmp_path / "out" / "leaderboard.csv").read_text().splitlines()
    assert board[1].startswith("x,66.6") and board[2].startswith("y,0.0,")


def test_head_to_head_of_all_pairs_rates_them(tmp_path: Path, annotator: list[str]) -> None:
    answers = {"x": ["aaa", "a", "aa"], "y": ["aa", "aa", "aaa"], "z": ["a", "aaa", "a"]}
    models = [outputs(tmp_path / f"{n}.json", n, a) for n, a in answers.items()]
    shown = call("head-to-head", *models, "--annotator", "pool", "--output", tmp_path / "out")
    assert shown.exit_code == 0, shown.stderr
    assert "rating" in shown.stdout and shown.stdout.count("\n y ") == 2
    assert "note: ratings without an interval" in shown.stderr  # three prompts: many resamples are one-sided
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["annotations.json"]
