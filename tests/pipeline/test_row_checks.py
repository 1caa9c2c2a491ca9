"""What a stage with `near_duplicates` reports of its rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rayalign.config import TrainStage, load_registry
from rayalign.data.collate import encode_examples
from rayalign.data.hygiene import LeakReport
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.data.preferences import under_profile
from rayalign.data.rows import RowFile, split, write_rows
from rayalign.data.two_answers import encode_comparisons
from rayalign.pipeline.row_checks import leaks
from rayalign.types import Candidate, Example, Message, Prompt


@pytest.mark.parametrize("encode", [encode_examples, encode_comparisons])
def test_the_leak_report_is_of_the_rows_that_the_loop_holds_out(tmp_path: Path, encode: Callable[..., Any]) -> None:
    registry = load_registry()
    examples = []
    for number in range(10):
        plain = Prompt(f"p{number}", (Message("user", f"question {number}"),))
        for name in ("P1A", "P1B"):
            prompt = under_profile(plain, registry.profile(name), registry, prompted=False)
            examples.append(Example(prompt, (Candidate(f"yes {number}"), Candidate("the same long answer to all"))))
    rows = list(encode(build_tokenizer(), examples, context=96))
    stage = TrainStage(kind="train", algorithm={"name": "reward"}, model="m", holdout=0.3)
    report = leaks(stage, examples, rows, 0.5, seed=3)
    assert report == LeakReport(prompts=0, exact=0, near=0, rows=12)

    write_rows(tmp_path, rows)
    file = RowFile(tmp_path)
    _, heldout = split(file, torch.ones(len(rows), dtype=torch.bool), 0.3, 3, singly=False)
    assert len(heldout) == report.rows and len(file.prompts()[heldout.numbers_B].unique()) == 3
