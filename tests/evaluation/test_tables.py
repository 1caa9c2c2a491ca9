from __future__ import annotations

import csv
import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from rayalign.errors import InputError
from rayalign.evaluation.length_files import read_coefficients, read_difficulty
from rayalign.evaluation.tables import (
    difficulty_from_others,
    paired_preferences,
    read_annotations,
    write_annotations,
    write_leaderboard,
)


def row(number: int, preference: Any = 1.0, **more: Any) -> dict[str, Any]:
    return {
        "instruction": f"question {number}", "output_1": "base", "generator_1": "old", "output_2": "model",
        "generator_2": "new", "annotator": "judge", "preference": preference, **more,
    }  # fmt: skip


def written(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_every_kind_of_file_reads_alike(tmp_path: Path) -> None:
    rows = [row(1, 2.0), row(2, None), row(3, 0)]
    plain = written(tmp_path / "a.json", rows)
    lines = tmp_path / "b.jsonl.gz"
    lines.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    again = tmp_path / "deep" / "c.json"
    write_annotations(again, rows)
    for path in (plain, lines, again):
        (found,) = read_annotations(path)
        assert (found.name, found.baseline, found.preferences) == ("new", "old", [2.0, None, 0])
        assert found.published() | {"standard_error": 0} == {
            "name": "new", "win_rate": 75.0, "standard_error": 0, "discrete_win_rate": 75.0, "n_wins": 1,
            "n_wins_base": 0, "n_draws": 1, "n_total": 2, "avg_length": 5,
        }  # fmt: skip


def test_old_names_come_as_new_in_the_public_order(tmp_path: Path) -> None:
    old = written(tmp_path / "old.json", [{"raw_completion": "m", "price_per_example": 0.1, "mine": 1, **row(1)}])
    (found,) = read_annotations(old)
    write_annotations(tmp_path / "new.json", found.rows)
    (again,) = json.loads((tmp_path / "new.json").read_text())
    assert list(again) == [
        "instruction", "output_1", "generator_1", "output_2", "generator_2", "annotator", "preference",
        "preference_raw_completion", "preference_price_per_example", "mine",
    ]  # fmt: skip
    assert again["preference_raw_completion"] == "m"


def test_models_of_one_file_stand_apart_and_names_may_lack(tmp_path: Path) -> None:
    rows = [row(1), row(1, generator_2="other"), row(2)]
    found = read_annotations(written(tmp_path / "a.json", rows))
    assert [(a.name, len(a.rows)) for a in found] == [("new", 2), ("other", 1)]
    (bare,) = read_annotations(written(tmp_path / "mine.json", [{**row(1), "generator_1": None, "generator_2": None}]))
    assert (bare.name, bare.baseline) == ("mine", "baseline")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "a.json: the file holds no rows"),
        ({"preference": 1}, "a.json:1: `instruction` must be text"),
        ([row(1), 7], "a.json: row 2: a row must be an object"),
        ([row(1), row(2, math.inf)], "a.json: row 2: `preference` must be 1 to 2, or 0 for a draw, this is inf"),
        ([row(1, 2.5)], "row 1: `preference` must be 1 to 2"),
        ([row(1, "2")], "row 1: `preference` must be a number or null, this is str"),
        ([row(1, True)], "row 1: `preference` must be a number or null, this is bool"),
        ([{k: v for k, v in row(1).items() if k != "preference"}], "row 1: `preference` is missing"),
        ([row(1, output_2=None)], "row 1: `output_2` must be text, this is NoneType"),
        ([row(1, id=[1])], "row 1: `id` must be text or a whole number"),
        ([row(1, generator_2=7)], "row 1: `generator_2` must be text, this is int"),
        ([row(1, generator_1=["a"])], "row 1: `generator_1` must be text, this is list"),
        ([row(1, annotator={})], "row 1: `annotator` must be text, this is dict"),
        ([row(1, input=5)], "row 1: `input` must be text, this is int"),
        ([row(1), row(2), row(1, 2.0)], "a.json: row 3: repeats .*a.json: row 1"),
        ([row(1, id="x"), row(2, id="x")], "row 2: repeats .*row 1"),
    ],
)
def test_bad_files_are_named_with_their_row(tmp_path: Path, rows: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_annotations(written(tmp_path / "a.json", rows))


def test_what_is_no_file_or_no_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_annotations(tmp_path / "none.json")
    (tmp_path / "empty.json").write_text("")
    with pytest.raises(InputError, match="empty.json: the file holds no rows"):
        read_annotations(tmp_path / "empty.json")
    for text in ("[" * 100_000, '[{"preference": ' + "1" * 5000 + "}]"):
        (tmp_path / "odd.json").write_text(text)
        with pytest.raises(InputError, match="odd.json: cannot be read as JSON"):
            read_annotations(tmp_path / "odd.json")
    (tmp_path / "torn.json.gz").write_bytes(gzip.compress(b"[" * 1000)[:20])
    with pytest.raises(InputError, match="torn.json.gz: cannot be read"):
        read_annotations(tmp_path / "torn.json.gz")


def test_repeats_are_told_apart_by_id_or_annotator(tmp_path: Path) -> None:
    rows = [row(1, id=1), row(1, id=2), row(1, annotator="second")]
    assert len(read_annotations(written(tmp_path / "a.json", rows))[0].rows) == 3


def test_leaderboard_is_the_public_one(tmp_path: Path) -> None:
    (poor,) = read_annotations(written(tmp_path / "poor.json", [row(1, 1.0, generator_2="poor")]))
    (good,) = read_annotations(written(tmp_path / "good.json", [row(1, 2.0), row(2, 1.5)]))
    write_leaderboard(tmp_path / "leaderboard.csv", [poor.published(), good.published()])
    text = (tmp_path / "leaderboard.csv").read_text()
    assert text.splitlines()[0] == (
        ",win_rate,standard_error,n_wins,n_wins_base,n_draws,n_total,discrete_win_rate,mode,avg_length"
    )
    assert text.splitlines()[1:] == ["new,75.0,25.0,1,0,1,2,75.0,community,5", "poor,0.0,,0,1,0,1,0.0,community,5"]
    with pytest.raises(InputError, match="given twice: new"):
        write_leaderboard(tmp_path / "leaderboard.csv", [good.published()] * 2)


def test_pairs_go_by_prompt_whatever_the_order(tmp_path: Path) -> None:
    (a,) = read_annotations(written(tmp_path / "a.json", [row(1, 1.0), row(2, 2.0), row(2, 1.5, id=9), row(3)]))
    (b,) = read_annotations(written(tmp_path / "b.json", [row(2, 1.2), row(1, 1.4), row(2, 1.6, id=9)]))
    assert paired_preferences(a, b) == ([1.0, 2.0, 1.5], [1.4, 1.2, 1.6], ["question 1", "question 2", "question 2"])
    (c,) = read_annotations(written(tmp_path / "c.json", [row(1, generator_1="elder")]))
    with pytest.raises(InputError, match="compared with"):
        paired_preferences(a, c)
    (d,) = read_annotations(written(tmp_path / "d.json", [row(7)]))
    with pytest.raises(InputError, match="no prompt in common"):
        paired_preferences(a, d)


def test_difficulty_of_a_file_must_fit_it(tmp_path: Path) -> None:
    (run,) = read_annotations(written(tmp_path / "a.json", [row(1), row(2)]))
    table = tmp_path / "d.csv"
    table.write_text(",instruction_difficulty\n0,0.5\n1,-1.5\n")
    assert read_difficulty(table, run) == [0.5, -1.5]
    table.write_text("instruction,difficulty\nquestion 2,2\nquestion 9,0\nquestion 1,1\n")
    assert read_difficulty(table, run) == [1.0, 2.0]
    table.write_text(",instruction_difficulty\n" + "".join(f"{i},0.5\n" for i in range(805)))
    with pytest.raises(InputError, match="no difficulty for 2 of the 2 rows"):
        read_difficulty(table, run)
    table.write_bytes(b"\x1f\x8b")
    with pytest.raises(InputError, match="d.csv: cannot be read as CSV"):
        read_difficulty(table, run)
    table.write_text(",instruction_difficulty\n0,nan\n1,2\n")
    with pytest.raises(InputError, match="'nan' is not a finite number"):
        read_difficulty(table, run)


def test_coefficients_need_every_column(tmp_path: Path) -> None:
    table = tmp_path / "c.csv"
    table.write_text(",np.tanh(std_delta_len),instruction_difficulty,not_gamed_baseline.astype(float)\nm,-1,2,0.5\n")
    assert read_coefficients(table) == {"m": (-1.0, 2.0, 0.5)}
    table.write_text(",np.tanh(std_delta_len)\nm,-1\n")
    with pytest.raises(InputError, match="m: instruction_difficulty: None"):
        read_coefficients(table)


def test_difficulty_comes_from_other_models_on_the_same_prompts(tmp_path: Path) -> None:
    def run(name: str, preferences: list[float], order: list[int], **more: Any) -> Any:
        rows = [row(i, preferences[i], generator_2=name, **more) for i in order]
        return read_annotations(written(tmp_path / f"{name}.json", rows))[0]

    a, b = run("a", [1.0] * 4, [0, 1, 2, 3]), run("b", [2.0, 1.0, 1.0, 1.0], [3, 2, 1, 0])
    hard = difficulty_from_others(a, [a, b])
    assert hard is not None and hard[0] > 0 > hard[1] == pytest.approx(hard[2])
    assert difficulty_from_others(a, [a]) is None
    assert difficulty_from_others(a, [a, run("c", [1.0] * 4, [0, 1])]) is None
    assert difficulty_from_others(a, [a, run("d", [1.0] * 4, [0, 1, 2, 3], generator_1="elder")]) is None


def test_avg_length_is_the_published_one(test_data: Path) -> None:
    home = test_data / "alpaca_eval"
    with (home / "leaderboard_alpaca_eval_2.csv").open() as file:
        published = {r[""]: int(r["avg_length"]) for r in csv.DictReader(file)}
    for model, length in published.items():
        (found,) = read_annotations(home / model / "weighted_alpaca_eval_gpt4_turbo" / "annotations.json.gz")
        assert found.published()["avg_length"] == length, model
