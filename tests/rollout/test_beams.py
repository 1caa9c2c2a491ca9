"""Beam search over a table of next-token probabilities, against all answers written out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest

from rayalign.config import BeamConfig
from rayalign.rollout.beams import Beam, Likely, Search, search

STOP = 0
TABLE = {
    (): {1: 0.5, 2: 0.4, STOP: 0.1},
    (1,): {1: 0.34, 2: 0.33, STOP: 0.33},
    (2,): {1: 0.05, 2: 0.05, STOP: 0.9},
}
"""probabilities of the next token after each answer so far; longer ones are as their last token"""


def next_tokens(prefixes: Sequence[tuple[int, ...]], count: int) -> list[Likely]:
    rows = []
    for prefix in prefixes:
        answer = prefix[1:]  # the prompt is one token
        table = TABLE[answer] if answer in TABLE else TABLE[answer[-1:]]
        likely = sorted(((token, math.log(p)) for token, p in table.items()), key=lambda each: -each[1])
        rows.append(likely[:count])
    return rows


def find(limit: int = 3, **settings: object) -> list[Beam]:
    one = Search((9,), BeamConfig.model_validate(settings), (STOP,), limit)
    search([one], next_tokens)
    return one.answers()


def test_one_beam_is_greedy() -> None:
    (answer,) = find(width=1)
    assert answer.tokens == (1, 1, 1) and answer.reason == "length"


def test_a_wide_beam_finds_the_most_likely_answer() -> None:
    def probability(answer: tuple[int, ...]) -> float:
        steps = range(len(answer))
        return math.prod(TABLE[answer[max(0, i - 1) : i]].get(answer[i], 0.0) for i in steps)

    answers = [a for n in (1, 2, 3) for a in itertools.product((1, 2), repeat=n - 1)]
    whole = [(*a, STOP) for a in answers] + list(itertools.product((1, 2), repeat=3))
    best = max(whole, key=probability)
    found = find(width=8, length_exponent=0.0)
    assert found[0].tokens == best == (2, STOP)
    assert sum(found[0].logprobs) == pytest.approx(math.log(0.36))
    assert found[0].reason == "stop"
    assert [beam.rank(0.0) for beam in found] == sorted((beam.rank(0.0) for beam in found), reverse=True)


def test_beams_of_one_search_differ() -> None:
    answers = [beam.tokens for beam in find(width=3)]
    assert len(answers) == len(set(answers)) == 3


def test_a_later_group_avoids_what_an_earlier_one_has_chosen() -> None:
    alike = find(width=2, groups=2, penalty=0.0)
    assert alike[0].tokens == alike[1].tokens
    diverse = find(width=2, groups=2, penalty=1.0)
    assert {beam.tokens[0] for beam in diverse} == {1, 2}
    # the log-probs are the model's own, without penalties
    assert all(max(beam.logprobs) <= 0 for beam in diverse)
    by_first = {beam.tokens[0]: beam for beam in diverse}
    assert by_first[2].logprobs[0] == pytest.approx(math.log(0.4))


def test_short_and_long_answers_are_ordered_by_their_mean() -> None:
    assert find(width=4, length_exponent=1.0)[0].rank(1.0) >= find(width=4, length_exponent=1.0)[-1].rank(1.0)
    assert Beam((1, 2), (-1.0, -3.0)).rank(1.0) == -2.0


def test_searches_side_by_side_are_each_as_alone() -> None:
    config = BeamConfig(width=4, groups=2)
    several = [Search((9,), config, (STOP,), limit) for limit in (1, 3, 2)]
    search(several, next_tokens)
    for one, limit in zip(several, (1, 3, 2), strict=True):
        assert one.answers() == find(limit=limit, width=4, groups=2)
