"""The gold utility of what each iteration trained on, from its journal to the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayalign.data.paddock import gold, prompts
from rayalign.evaluation.curves import gold_by_iteration
from rayalign.storage.journal import Journal
from rayalign.storage.records import encode, write_jsonl
from rayalign.storage.report_curves import curves_section, stage_metrics
from rayalign.storage.summary import write_done
from rayalign.types import Group, Message, Prompt, Segment, Trajectory

SEGMENTS = (Segment(0, "template"), Segment(1, "policy", 0))


def group(prompt: Prompt, *answers: str) -> Group:
    written = [Trajectory(prompt.id, i, (1, 2), SEGMENTS, (0.0,), "stop", text) for i, text in enumerate(answers)]
    return Group(prompt.id, prompt, 0, tuple(written))


def consume(path: Path, iterations: list[list[Group]]) -> None:
    """The journal of a stage that trained on these groups."""
    journal = Journal(path)
    for iteration, groups in enumerate(iterations):
        for made in groups:
            scores = [{"value": 0.5, "reason": None}] * len(made.trajectories)
            journal.append({"kind": "finished", "group": encode(made)})
            journal.append({"kind": "scored", "group": made.id, "scores": scores})
        journal.append({"kind": "consumed", "iteration": iteration, "groups": [made.id for made in groups]})
    journal.close()


def test_each_iteration_has_the_mean_gold_of_its_answers(tmp_path: Path) -> None:
    first, second, third, unused = prompts(0, "train", 4)
    best = [gold.oracle(prompt) for prompt in (first, second)]
    iterations = [[group(first, best[0], best[0])], [group(second, best[1]), group(third, "")]]
    consume(tmp_path / "ppo.jsonl", iterations)
    worth = [gold.utility(prompt, answer) for prompt, answer in zip((first, second), best, strict=True)]
    assert min(worth) > 0.9 and gold.utility(third, "") == 0.0
    found = gold_by_iteration(tmp_path / "ppo.jsonl")
    assert found == {0: pytest.approx(worth[0]), 1: pytest.approx(worth[1] / 2)}


def test_outside_the_embedded_world_there_is_no_gold(tmp_path: Path) -> None:
    consume(tmp_path / "ppo.jsonl", [[group(Prompt("p", (Message("user", "q"),)), "a")]])
    assert gold_by_iteration(tmp_path / "ppo.jsonl") == {}


def test_the_report_draws_gold_over_the_iterations(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": i, "metrics": {"reward/mean": 0.1 * i}} for i in range(3)])
    write_done(tmp_path, "hash", gold_by_iteration={0: 0.25, 1: 0.75})
    rows = stage_metrics(tmp_path)
    assert [row["metrics"].get("gold/utility") for row in rows] == [0.25, 0.75, None]
    page = curves_section({"ppo": rows}, {"ppo": "train"})
    assert "<b>gold/utility</b>" in page and "0.250 → 0.750" in page
