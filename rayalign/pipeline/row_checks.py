"""Duplicates and leaks among the rows of an offline stage (`near_duplicates`)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rayalign.config import TrainStage
from rayalign.data.collate import EncodedRow
from rayalign.data.hygiene import LeakReport, leak_report, refuse_leaks, without_duplicates
from rayalign.data.rows import heldout_prompts
from rayalign.types import Example

logger = logging.getLogger(__name__)


def distinct_rows(name: str, examples: Iterable[Example], threshold: float, figures: dict[str, Any]) -> list[Example]:
    """The examples without exact and near duplicates, whose counts go to the figures."""
    distinct, removed = without_duplicates(examples, near=threshold)
    figures["duplicates"] = asdict(removed)
    logger.info("%s: %d exact and %d near duplicates removed", name, removed.exact, removed.near)
    return distinct


def leaks(
    stage: TrainStage, examples: Sequence[Example], rows: Sequence[EncodedRow], threshold: float, seed: int
) -> LeakReport:
    """What the rows that the stage holds out share with those that it trains on."""
    prompts = list(dict.fromkeys(row.prompt for row in rows))
    is_heldout = heldout_prompts(len(prompts), stage.holdout, seed).tolist()
    heldout_ids = {prompt for prompt, held_out in zip(prompts, is_heldout, strict=True) if held_out}
    sides: tuple[list[Example], list[Example]] = ([], [])
    prompt_of = {row.group: row.prompt for row in rows}
    for place, prompt in sorted(prompt_of.items()):
        sides[prompt in heldout_ids].append(examples[place])
    return leak_report(*sides, near=threshold)


def report_leaks(
    stage: TrainStage,
    examples: Sequence[Example],
    rows: Sequence[EncodedRow],
    threshold: float,
    seed: int,
    figures: dict[str, Any],
) -> None:
    """Put the leak report into the figures; InputError where the split leaks."""
    report = leaks(stage, examples, rows, threshold, seed)
    refuse_leaks(report)
    figures["leaks"] = asdict(report)
