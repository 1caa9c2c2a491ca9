from __future__ import annotations

import pytest

from rayalign.config import GateConfig
from rayalign.evolve.gates import Gates
from rayalign.evolve.wordings import MARKS
from rayalign.types import Message, Prompt

PARENT = "name three trees that grow in our valley"
POOL = (PARENT, "explain why the mill at the river grinds so slowly in winter")
BENCHMARK = "which of the four bridges over the river was built first"


def prompt(text: str) -> Prompt:
    return Prompt(text, (Message("user", text),))


@pytest.fixture
def gates() -> Gates:
    config = GateConfig(near=0.8, overlap=5, longest=200)
    return Gates(config, map(prompt, POOL), [prompt(BENCHMARK)], MARKS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "absent"),
        ("  \n ", "empty"),
        ("Name  three TREES that grow in our valley", "the parent again"),
        ("trees", "too short"),
        ("trees that grow " * 20, "too long"),
        ("??? !!! ...", "no words"),
        ("<original> name three trees </original>", "the operator's instruction"),
        ("I'm sorry, but I cannot rewrite this about trees", "the operator's instruction"),
        ("name trees: which of the four bridges over the river", "in a benchmark"),
        (POOL[1].upper(), "duplicate"),
        ("name three trees that grow in our valley!", "near duplicate"),
        ("what does a tax adviser charge for an hour", "drift"),
        ("trees trees trees trees trees trees grow", "repetitive"),
        ("name five trees that grow in our valley, with the colour of their bark", None),
    ],
)
def test_the_first_gate_that_refuses_names_the_reason(gates: Gates, text: str | None, reason: str | None) -> None:
    assert gates.admit(None if text is None else prompt(text), prompt(PARENT), PARENT) == reason


def test_what_passed_joins_the_pool_and_what_was_refused_does_not(gates: Gates) -> None:
    new = prompt("name five trees that grow in our valley, with the colour of their bark")
    far = prompt("what does a tax adviser charge for an hour")
    assert gates.admit(new, prompt(PARENT), PARENT) is None
    assert gates.admit(new, prompt(POOL[1]), PARENT) == "duplicate"
    assert gates.admit(far, prompt(PARENT), PARENT) == "drift"
    assert gates.admit(far, prompt(PARENT), "") is None  # one in breadth has no ancestor to stay near to


def test_earlier_turns_tell_dialogues_apart(gates: Gates) -> None:
    turns = (Message("user", "about the mill"), Message("assistant", "yes ?"), Message("user", POOL[1]))
    assert gates.admit(Prompt("d", turns), prompt(PARENT), "") is None
