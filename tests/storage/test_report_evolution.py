from __future__ import annotations

from pathlib import Path
from typing import Any

from rayalign.storage.report_evolution import evolution_tables
from rayalign.storage.summary import write_done

FIGURES: dict[str, Any] = {
    "rows": 40,
    "evolved": 30,
    "refused": {"drift": 3, "<b>": 1},
    "informativeness": 0.5,
    "informativeness_selected": 0.75,
    "difficulty": {"before": 1.5, "after": 2.25},
    "distinct": {"before": 0.9, "after": 0.8},
    "ancestor_words": 1.0,
    "by_difficulty": {"1": {"prompts": 20, "informativeness": 0.025, "gap": 0.75, "selected": 2}},
}


def test_each_round_has_a_row_and_each_difficulty_a_column(tmp_path: Path) -> None:
    unscored = {"prompts": 5, "informativeness": None, "selected": 0}  # as before the gap was measured
    harder = {**FIGURES, "by_difficulty": {"3": unscored}}
    for name, figures in (("one", FIGURES), ("two", harder), ("sft", {"rows": 1})):
        write_done(tmp_path / name, "hash", **figures)
    page = evolution_tables({name: tmp_path / name for name in ("one", "two", "sft", "open")})
    assert "<td>one</td><td>30 of 40</td><td>drift 3, &lt;b&gt; 1</td>" in page
    assert "<th>difficulty 1</th><th>difficulty 3</th>" in page
    assert "<td>two</td><td>–</td><td>– (5, 0)</td>" in page
    assert "<td>0.750 (20, 2)</td>" in page  # the gap, not the stage's own measure
    assert "sft" not in page


def test_a_run_without_such_a_stage_has_no_such_section(tmp_path: Path) -> None:
    write_done(tmp_path / "sft", "hash", rows=1)
    assert evolution_tables({"sft": tmp_path / "sft"}) == ""
