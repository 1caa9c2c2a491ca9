"""The table of mistakes fits its edits, and one of them is tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from benchmarks.rehearsal_mistakes import EDITS, TABLE, make_parts, try_mistake

CONTENT: dict[str, Any] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
MISTAKES: dict[str, Any] = {mistake["name"]: mistake for mistake in CONTENT["mistakes"]}


def test_there_are_forty_mistakes_and_each_edit_makes_one_of_them() -> None:
    assert len(CONTENT["mistakes"]) == len(MISTAKES) == 40
    assert {mistake["edit"] for mistake in MISTAKES.values() if "edit" in mistake} == set(EDITS)


def test_a_head_beside_tied_embeddings_passes_check_and_is_found(tmp_path: Path) -> None:
    make_parts(tmp_path / "whole")
    mistake = MISTAKES["head_beside_tied_embeddings"]
    outcome = try_mistake(mistake, CONTENT["job"], tmp_path / "mistake", tmp_path / "whole")
    assert outcome["passed_check"] and outcome["caught"], outcome["said"]
