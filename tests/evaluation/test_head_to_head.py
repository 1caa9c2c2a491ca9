from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rayalign.errors import InputError, RayalignError
from rayalign.evaluation.head_to_head import Outputs, head_to_head, read_outputs


def outputs(path: Path, name: str, answers: dict[str, str], **more: Any) -> Outputs:
    rows = [{"instruction": q, "output": a, "generator": name, **more} for q, a in answers.items()]
    path.write_text(json.dumps(rows))
    return read_outputs(path)


def longer(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """An annotator that prefers the longer answer."""
    assert all(set(row) == {"instruction", "input", "output_1", "output_2"} for row in rows)
    gaps = [len(row["output_2"]) - len(row["output_1"]) for row in rows]
    return [{"preference": 1.5 + 0.5 * (g > 0) - 0.5 * (g < 0), "annotator": "longer", "price": 0.0} for g in gaps]


def test_models_meet_the_baseline_on_shared_prompts(tmp_path: Path) -> None:
    base = outputs(tmp_path / "0.json", "base", {"p": "aa", "q": "aa", "r": "aa"}, dataset="set")
    short = outputs(tmp_path / "1.json", "short", {"q": "a", "p": "aa", "z": "a"})
    found = head_to_head([short], longer, baseline=base)
    (run,) = found.annotations
    assert (run.name, run.baseline, run.preferences, run.prompts) == ("short", "base", [1.5, 1.0], ["p", "q"])
    assert run.rows[1] == {
        "instruction": "q", "input": "", "dataset": "set", "output_1": "aa", "generator_1": "base", "output_2": "a",
        "generator_2": "short", "preference": 1.0, "annotator": "longer", "price": 0.0,
    }  # fmt: skip
    assert found.notes == ("short lacks, of base: 1 ('r')", "base lacks, of short: 1 ('z')")


def test_all_pairs_without_a_baseline_and_their_ratings(tmp_path: Path) -> None:
    answers = ({"p": "aaa", "q": "a", "r": "aa"}, {"p": "aa", "q": "aa", "r": "aaa"}, {"p": "a", "q": "aaa", "r": "a"})
    models = [outputs(tmp_path / f"{i}.json", f"m{i}", a) for i, a in enumerate(answers)]
    found = head_to_head(models, longer)
    assert [(a.baseline, a.name) for a in found.annotations] == [("m0", "m1"), ("m0", "m2"), ("m1", "m2")]
    ratings = found.ratings()
    assert [r.name for r in ratings] == ["m1", "m0", "m2"] and {r.n for r in ratings} == {6}
    anchored = {r.name: r.rating for r in found.ratings(baseline="m2")}
    assert anchored["m2"] == pytest.approx(1000.0) and anchored["m1"] > anchored["m0"] > 1000.0


def test_the_input_is_part_of_the_prompt_and_repeats_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    rows = [
        {"instruction": "do", "input": "x", "output": "first"},
        {"instruction": "do", "input": "y", "output": "other"},
        {"instruction": "do", "input": "x", "output": "second"},
    ]
    path.write_text(json.dumps(rows))
    found = read_outputs(path)
    assert (found.name, list(found.rows), found.repeated) == ("a", ["do\n\nx", "do\n\ny"], ("do\n\nx",))
    assert found.rows["do\n\nx"]["output"] == "first"
    played = head_to_head([found], longer, baseline=outputs(tmp_path / "b.json", "b", {"do": "z"}, input="x"))
    assert played.notes[0] == "a: instructions given twice, the first answer counts: 1 ('do\\n\\nx')"
    assert played.annotations[0].rows[0]["input"] == "x"


def test_a_failed_verdict_is_absent(tmp_path: Path) -> None:
    a, b = (outputs(tmp_path / f"{n}.json", n, {"p": n, "q": n}) for n in "ab")
    found = head_to_head([b], lambda rows: [{"preference": None, "reason": "timeout"}, {"preference": 2.0}], baseline=a)
    assert found.annotations[0].preferences == [None, 2.0]
    assert found.annotations[0].rows[0]["reason"] == "timeout"


@pytest.mark.parametrize("reply", [[], [{}], [{"preference": 3}], [{"preference": "1"}], [{"preference": True}]])
def test_what_no_annotator_may_say(tmp_path: Path, reply: list[dict[str, Any]]) -> None:
    a, b = (outputs(tmp_path / f"{n}.json", n, {"p": n}) for n in "ab")
    with pytest.raises(RayalignError, match="the annotator"):
        head_to_head([b], lambda rows: reply, baseline=a)


def test_files_that_cannot_meet(tmp_path: Path) -> None:
    a, b = outputs(tmp_path / "a.json", "a", {"p": "x"}), outputs(tmp_path / "b.json", "b", {"q": "x"})
    with pytest.raises(InputError, match="a and b have no instruction in common"):
        head_to_head([a, b], longer)
    with pytest.raises(InputError, match="two files name the generator a"):
        head_to_head([a], longer, baseline=a)
    with pytest.raises(InputError, match="needs two models"):
        head_to_head([a], longer)
    (tmp_path / "c.json").write_text(json.dumps([{"instruction": "p", "output": "x"}, {"instruction": "q"}]))
    with pytest.raises(InputError, match="c.json: row 2: `output` must be text"):
        read_outputs(tmp_path / "c.json")
    (tmp_path / "d.json").write_text(json.dumps([{"instruction": n, "output": n, "generator": n} for n in "xy"]))
    with pytest.raises(InputError, match=r"several generators \(x, y\)"):
        read_outputs(tmp_path / "d.json")
