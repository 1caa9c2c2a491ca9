from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from rayalign.config import GateConfig
from rayalign.evolve.chains import Attempts, Outcome, evolve_chains
from rayalign.evolve.creator import Rated
from rayalign.evolve.evolvers import WrittenEvolver
from rayalign.evolve.figures import figures, lineages
from rayalign.evolve.gates import Gates
from rayalign.evolve.lineage import Lineage
from rayalign.types import Message, Prompt


def prompt(text: str, **meta: str) -> Prompt:
    return Prompt(text, (Message("user", text),), meta)


TREES = prompt("name some trees of the valley", family="list", difficulty="1")
MILL = prompt("why does the mill stand still", family="fact", difficulty="2")
STARTS = [Rated(TREES, (1.0, 3.0, None), 2.0, 0.75), Rated(MILL, (0.0, 1.0), 1.0, 0.25)]


class Writer:
    """Adds a word to what it is to evolve; has nothing to say where it is told so."""

    def __init__(self, silent: str = "never") -> None:
        self.silent = silent
        self.requests: list[str] = []

    async def __call__(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[str | None]:
        texts = [instruction.messages[0].content.rpartition("<original>\n")[2] for instruction in prompts]
        self.requests += [text.removesuffix("\n</original>") for text in texts]
        words = ("gladly", "tomorrow")
        latest = self.requests[-len(prompts) :]
        return [
            None if self.silent in text else f"<result>{text} {words[text.count('gladly')]}</result>" for text in latest
        ]


def run(tmp_path: Path, writer: Writer, operators: Sequence[str] = ("constrain",), steps: int = 2) -> Outcome:
    gates = Gates(GateConfig(), [TREES, MILL])
    evolver = WrittenEvolver(operators, writer, "family")
    with closing(Attempts(tmp_path / "attempts.jsonl")) as attempts:
        return asyncio.run(evolve_chains(STARTS, evolver, gates, attempts, steps=steps, seed=0))


def test_each_step_starts_from_the_one_before_and_both_are_taken(tmp_path: Path) -> None:
    outcome = run(tmp_path, Writer())
    texts = [evolved.prompt.messages[-1].content for evolved in outcome.evolved]
    assert texts == [
        "name some trees of the valley gladly",
        "why does the mill stand still gladly",
        "name some trees of the valley gladly tomorrow",
        "why does the mill stand still gladly tomorrow",
    ]
    first, _, third, _ = outcome.evolved
    assert dict(third.prompt.meta) == {
        "family": "list",  # the topic; the difficulty is not known any more
        "parent": first.prompt.id,
        "operator": "constrain",
        "generation": "2",
        "ancestor": TREES.messages[-1].content,
    }
    line = Lineage(third.prompt.id, first.prompt.id, "constrain", 2, TREES.id, "gap", 2.0, 0.75, (1.0, 3.0, None))
    assert third.lineage("gap") == line


def test_a_refused_prompt_is_counted_and_its_chain_stays_where_it_was(tmp_path: Path) -> None:
    writer = Writer(silent="mill")
    outcome = run(tmp_path, writer)
    assert outcome.refused == {"absent": 2}
    assert outcome.attempts == 4
    assert writer.requests.count(MILL.messages[-1].content) == 2
    assert len(outcome.evolved) == 2


def test_one_in_breadth_begins_a_line_of_its_own(tmp_path: Path) -> None:
    outcome = run(tmp_path, Writer(), ("breadth",), steps=1)
    assert [evolved.prompt.meta["ancestor"] for evolved in outcome.evolved] == [
        evolved.prompt.messages[-1].content for evolved in outcome.evolved
    ]


def test_what_was_written_before_is_not_written_again(tmp_path: Path) -> None:
    whole = run(tmp_path, Writer())
    again = Writer()
    assert run(tmp_path, again) == whole
    assert again.requests == []
    path = tmp_path / "attempts.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:20])  # killed while the fourth was written
    assert run(tmp_path, again) == whole
    assert again.requests == ["why does the mill stand still gladly"]
    assert path.read_bytes().splitlines(keepends=True) == lines


def test_figures_and_lineages_of_a_round(tmp_path: Path) -> None:
    outcome = run(tmp_path, Writer(silent="mill"))
    written = [outcome.evolved[1].prompt, MILL]
    assert list(lineages(written, outcome, "gap")) == [
        outcome.evolved[1].lineage("gap"),
        Lineage(MILL.id, None, None, 0),
    ]
    result = figures(STARTS, STARTS[:1], outcome, written)
    assert (result["rows"], result["evolved"], result["selected"], result["attempts"]) == (2, 1, 1, 4)
    assert result["refused"] == {"absent": 2}
    assert result["operators"] == {"constrain": 2}
    assert result["generations"] == {"0": 1, "2": 1}
    assert (result["informativeness"], result["informativeness_selected"]) == (1.5, 2.0)
    assert result["by_difficulty"] == {
        "1": {"prompts": 1, "informativeness": 2.0, "gap": 2.0, "selected": 1},
        "2": {"prompts": 1, "informativeness": 1.0, "gap": 1.0, "selected": 0},
    }
    evenly = [replace(start, value=0.5) for start in STARTS]  # another measure leaves the gap as it is
    gaps = [row["gap"] for row in figures(evenly, evenly, outcome, written)["by_difficulty"].values()]
    assert gaps == [2.0, 1.0]
    assert result["difficulty"] == {"before": 1.5, "after": 2.0}
    assert result["ancestor_words"] == 1.0
    assert result["distinct"]["before"] == pytest.approx(1.0)
