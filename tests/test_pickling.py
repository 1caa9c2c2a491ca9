from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import Any

import pytest

from rayalign.config import SamplingConfig
from rayalign.pickling import fast_pickle
from rayalign.rollout.base import Finished, Request
from rayalign.types import Absence, Group, Message, Prompt, Score, ScorePart, Segment, Trajectory

PROMPT = Prompt("p", (Message("user", "q"),), {"family": "count"})
TRAJECTORY = Trajectory(
    "g", 0, (1, 2), (Segment(0, "template"), Segment(1, "policy", 3)), (-0.5,), "stop", "a", (), 0.25
)
SCORE = Score(None, "help: no reason", (ScorePart("help", None, "no reason"), ScorePart("harm", 0.5)))
RECORDS = [
    Group("g", PROMPT, 2, (TRAJECTORY,), (SCORE,), (Absence(1, "too long"),)),
    Request("g/0", (1, 2), 7, SamplingConfig(max_tokens=9), (3,), draw=1),
    Finished("g/0", (4,), (-1.0,), ((0, 5),), "length"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_what_is_sent_arrives_as_it_was(record: Any) -> None:
    assert pickle.loads(pickle.dumps(record)) == record
    assert copy.deepcopy(record) == record


@fast_pickle
@dataclass(frozen=True, slots=True)
class Pair:
    """A record that fields of another kind would break: its constructor sees what is loaded."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


def test_a_record_is_loaded_by_its_constructor() -> None:
    pair = Pair(1, 2)
    object.__setattr__(pair, "low", 3)
    with pytest.raises(ValueError, match="low is above high"):
        pickle.loads(pickle.dumps(pair))
