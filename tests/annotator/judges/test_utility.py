from __future__ import annotations

import asyncio
import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from rayalign.annotator import RubricJudge
from rayalign.annotator.judges.utility import RubricUtilities, UtilityJudge
from rayalign.annotator.judges.verdicts import Pair, Verdict, pair_of
from rayalign.config import HumanConfig, JudgeConfig, load_registry
from rayalign.data.paddock import gold, prompts, tasks
from rayalign.data.paddock.compose import compose
from rayalign.data.paddock.demonstrations import RATES, draw_attributes
from rayalign.data.preferences import under_profile
from rayalign.errors import InputError
from rayalign.types import Candidate, Message, Prompt, Score


def utility(prompt: Prompt, answer: str) -> float:
    """A stand-in for the gold utility: the share of capital letters."""
    return sum(c.isupper() for c in answer) / max(1, len(answer))


def pairs(first: str, second: str, count: int) -> list[tuple[Prompt, str, str]]:
    return [(Prompt(f"p{i}", (Message("user", "q"),)), first, second) for i in range(count)]


def share_first(config: JudgeConfig, first: str, second: str) -> float:
    verdicts = RubricJudge(config, utility).compare(pairs(first, second, 4000), seed=1)
    assert set(verdicts) <= {1.0, 2.0}
    return verdicts.count(1.0) / len(verdicts)


def test_verdicts_follow_bradley_terry() -> None:
    # utilities 0.5 and 0.25 at temperature 0.25: sigmoid(1)
    assert share_first(JudgeConfig(temperature=0.25), "Ab", "Abcd") == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)
    assert share_first(JudgeConfig(temperature=0.001), "Ab", "Abcd") == 1.0
    assert share_first(JudgeConfig(temperature=0.001), "Abcd", "Ab") == 0.0


def test_flips_turn_their_share_of_verdicts() -> None:
    assert share_first(JudgeConfig(temperature=0.001, flip=0.25), "Ab", "Abcd") == pytest.approx(0.75, abs=0.03)


def test_length_bias_pays_for_each_word() -> None:
    # four more words at 0.2 outweigh a utility of 0.5 against 0.1
    assert share_first(JudgeConfig(temperature=0.001, length_bias=0.2), "Ab", "1A 2 3 4 5") == 0.0
    assert share_first(JudgeConfig(temperature=0.001, length_bias=0.0), "Ab", "1A 2 3 4 5") == 1.0


def test_swapping_mirrors_and_order_changes_nothing() -> None:
    judge = RubricJudge(JudgeConfig(temperature=1.0, flip=0.2), utility)
    forward = judge.compare(pairs("Ab", "Abcd", 200), seed=3)
    swapped = judge.compare(pairs("Abcd", "Ab", 200), seed=3)
    assert all(a is not None and b is not None and a + b == 3.0 for a, b in zip(forward, swapped, strict=True))
    assert judge.compare(pairs("Ab", "Abcd", 200)[::-1], seed=3) == forward[::-1]
    assert judge.compare(pairs("Ab", "Abcd", 200), seed=4) != forward
    assert set(forward) == {1.0, 2.0}


def test_equal_answers_tie() -> None:
    assert RubricJudge(JudgeConfig(), utility).compare(pairs("Ab", "Ab", 2), seed=0) == [1.5, 1.5]


def test_the_gold_utility_is_the_default() -> None:
    prompt = prompts(0, "test", 1)[0]
    judge = RubricJudge(JudgeConfig(temperature=0.001))
    assert judge.compare([(prompt, gold.oracle(prompt), "nothing")], seed=0) == [1.0]


@pytest.fixture(scope="module")
def drawn() -> list[Pair]:
    """Two answers of mixed quality to each of 200 prompts."""
    rng, found = random.Random("pairs"), list[Pair]()
    for prompt in prompts(0, "preference", 200):
        task = tasks.parse(prompt.meta["task"])
        first, second = (compose(task, draw_attributes(rng, RATES), rng) for _ in range(2))
        found.append((prompt, first, second))
    return found


@pytest.mark.parametrize(
    ("config", "seed", "starts", "digest"),
    [
        (JudgeConfig(), 0, "1121121211112121122111121212121221212121", "efabdb7b4d805b79"),
        (JudgeConfig(), 7, "2121221211112121122211121212121111212121", "343ac8ef8db24b6f"),
        (JudgeConfig(temperature=0.3, flip=0.2), 0, "2112211111222121121211121112221211122122", "80164eb5e6d6e952"),
        (JudgeConfig(temperature=0.3, flip=0.2), 7, "2221211212112122112111111212121111211122", "dff68c03f5e942f9"),
        (
            JudgeConfig(temperature=0.05, flip=0.1, length_bias=0.01), 0,
            "1121111211122121122111121212121211212221", "5651647c6a4dbec7",
        ),
        (
            JudgeConfig(temperature=0.05, flip=0.1, length_bias=0.01), 7,
            "1221221211112122122211121212111111212221", "e3302aec0970f49b",
        ),
    ],
)  # fmt: skip
def test_verdicts_are_the_same_as_ever(
    drawn: list[Pair], config: JudgeConfig, seed: int, starts: str, digest: str
) -> None:
    """The first 40 of 200 verdicts, and the start of the SHA-256 of them all."""
    names = {1.0: "1", 2.0: "2", 1.5: "t"}
    said = "".join(names[v] for v in RubricJudge(config).compare(drawn, seed=seed) if v is not None)
    assert said[:40] == starts
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == digest


def judged(judge: UtilityJudge, pairs: Sequence[Pair], seed: int = 0) -> list[Verdict]:
    return asyncio.run(judge.judge(pairs, seed=seed))


def bare(pairs: Sequence[Pair]) -> list[Pair]:
    """As over HTTP: without what the data set knows."""
    return [(Prompt("\n\n".join(m.content for m in p.messages), p.messages), a, b) for p, a, b in pairs]


def test_without_a_human_utilities_are_compared_exactly(drawn: list[Pair]) -> None:
    verdicts = judged(UtilityJudge(RubricUtilities(), None, "gold"), drawn)
    worth = [(gold.utility(p, a), gold.utility(p, b)) for p, a, b in drawn]
    assert [v.utilities for v in verdicts] == worth
    assert [v.preference for v in verdicts] == [1.5 if a == b else 1.0 if a > b else 2.0 for a, b in worth]
    assert {1.0, 1.5, 2.0} == {v.preference for v in verdicts}
    assert all(v.explanation for v in verdicts)


def test_a_prompt_is_understood_without_its_meta_and_by_any_batch(drawn: list[Pair]) -> None:
    judge = UtilityJudge(RubricUtilities(), HumanConfig(temperature=0.2, flip=0.1, self_disagreement=0.5), "ann")
    whole = judged(judge, drawn, seed=5)
    assert judged(judge, bare(drawn), seed=5) == whole
    assert judged(judge, drawn[::-1], seed=5) == whole[::-1]
    assert judged(judge, drawn[10:30], seed=5) == whole[10:30]
    swapped = judged(judge, [(p, b, a) for p, a, b in drawn], seed=5)
    assert [v.mirrored for v in swapped] == whole


def test_a_strange_prompt_has_no_verdict_and_the_remedy() -> None:
    judge = UtilityJudge(RubricUtilities(), None, "gold")
    strange = Prompt("q", (Message("user", "what is the capital of france ?"),))
    (verdict,) = judged(judge, [(strange, "paris", "lyon")])
    assert verdict.preference is None and "tell me the color of ada" in (verdict.reason or "")
    (score,) = asyncio.run(judge.scores([(strange, "paris")]))
    assert score.value is None and score.reason == verdict.reason


@pytest.mark.parametrize(
    "task",
    [
        "", "null", "[]", "{}", "[" * 50_000, '{"family":"fact"}', '{"family":"fact","tier":"A","slots":[{}]}',
        '{"family":"list","tier":"A","domain":"things","category":"nonsense"}',
        '{"family":"list","tier":"A","domain":"things","category":"birds","style":{"length":"endless"}}',
        '{"family":"fact","tier":"A","slots":[{"label":"color","value":"red","domain":"nonsense"}]}',
    ],
)  # fmt: skip
def test_a_task_from_a_strange_hand_is_refused_in_words(task: str) -> None:
    prompt = Prompt("q", (Message("user", "tell me the color of ada ."),), {"task": task})
    (verdict,) = judged(UtilityJudge(RubricUtilities(), None, "gold"), [(prompt, "red", "blue")])
    assert verdict.preference is None and "meta.task" in (verdict.reason or "")


def test_criteria_weigh_attributes() -> None:
    prompt = Prompt("q", (Message("user", "tell me the color of ada . as list ."),))
    kind, curt = "thank you for asking . the wind is up and so are we .", "no ."
    items = [(prompt, kind), (prompt, curt)]
    # the first is polite and of the right length, the second neither: 2 words are 8 short of a band that begins at 10
    found = asyncio.run(RubricUtilities({"polite": 1.0, "brief": -0.5, "safe": 9.0}).scores(items))
    assert [score.value for score in found] == [0.5, 0.0]
    assert [score.reason for score in found] == ["brief, polite", "none of it"]


def test_wrong_criteria_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean polite"):
        RubricUtilities({"polit": 1.0})
    with pytest.raises(InputError, match="finite"):
        RubricUtilities({"polite": math.nan})


def test_the_revision_names_everything_that_decides() -> None:
    human = HumanConfig()
    judges = [
        UtilityJudge(RubricUtilities(), human, "ann"),
        UtilityJudge(RubricUtilities(), human, "bob"),
        UtilityJudge(RubricUtilities(), HumanConfig(flip=0.1), "ann"),
        UtilityJudge(RubricUtilities({"brief": 1.0}), human, "ann"),
        UtilityJudge(RubricUtilities({"brief": 2.0}), human, "ann"),
        UtilityJudge(RubricUtilities(), None, "ann"),
    ]
    assert len({judge.revision for judge in judges}) == len(judges)
    assert UtilityJudge(RubricUtilities(), HumanConfig(), "ann").revision == judges[0].revision


class Broken:
    """Utilities of which some are none."""

    revision, batch = "broken", 4

    async def scores(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        values = {"nan": Score(math.nan), "none": Score(None, "the replica died"), "one": Score(1.0), "two": Score(2.0)}
        return [values[answer] for _, answer in items]


def test_what_is_no_number_is_never_compared() -> None:
    prompt = Prompt("q", (Message("user", "q"),))
    judge = UtilityJudge(Broken(), HumanConfig(), "ann")
    said = judged(judge, [(prompt, "one", "nan"), (prompt, "none", "one"), (prompt, "two", "one")])
    assert [v.preference for v in said] == [None, None, 1.0]
    assert "nan" in (said[0].reason or "") and said[1].reason == "the replica died"
    assert [s.value for s in asyncio.run(judge.scores([(prompt, "nan"), (prompt, "two")]))] == [None, 2.0]


def test_scores_have_the_tastes_of_the_human() -> None:
    judge = UtilityJudge(Broken(), HumanConfig(length_bias=0.5, position_bias=3.0), "ann")
    assert [s.value for s in asyncio.run(judge.scores([(Prompt("q", ()), "two")]))] == [2.5]


def test_the_criterion_wishes_is_what_a_prompts_preferences_ask_for() -> None:
    registry = load_registry()
    (prompt, *_) = [p for p in prompts(0, "test", 40) if not tasks.parse(p.meta["task"]).style]
    learned = under_profile(prompt, registry.profile("P1B"), registry)
    both = under_profile(prompt, registry.profile("P1B+P3B"), registry)
    answer = "indeed , how lovely !"
    scores = asyncio.run(RubricUtilities({"wishes": 2.0}).scores([(p, answer) for p in (prompt, learned, both)]))
    assert [score.value for score in scores] == [0.0, 2.0, 1.0]


def test_dialogues_are_judged_whole() -> None:
    (whole,) = [p for p in prompts(0, "test", 400) if p.meta["family"] == "clarify"][:1]
    opening = replace(whole, messages=whole.messages[:1], meta={})
    good = Candidate(gold.oracle(whole), turns=whole.messages[1:])
    hasty = Candidate("i do not know .")
    judge = UtilityJudge(RubricUtilities(), None, "gold")
    # both answers to the whole dialogue: it is understood though its last turn alone is not
    (verdict,) = judged(judge, [pair_of(opening, good, replace(hasty, turns=good.turns))])
    assert verdict.preference == 1.0
    (refused,) = judged(judge, [(replace(whole, messages=whole.messages[-1:], meta={}), good.text, hasty.text)])
    assert refused.preference is None
    # answers after other turns: the last answer counts
    task = {"task": whole.meta["task"]}
    (verdict,) = judged(judge, [pair_of(replace(opening, meta=task), hasty, good)])
    assert verdict.preference == 2.0
    assert verdict.utilities == (gold.utility(whole, hasty.text), gold.utility(whole, good.text))


def test_one_of_several_humans_is_drawn_for_each_prompt_by_the_seed(drawn: list[Pair]) -> None:
    first, second = HumanConfig(temperature=1e-6), HumanConfig(temperature=1e-6, flip=0.5, position_bias=9.0)
    alone = [judged(UtilityJudge(RubricUtilities(), human, "panel"), drawn) for human in (first, second)]
    both = UtilityJudge(RubricUtilities(), (first, second), "panel")
    verdicts = judged(both, drawn)
    by_first = [verdict == other for verdict, other in zip(verdicts, alone[0], strict=True)]
    by_second = [verdict == other for verdict, other in zip(verdicts, alone[1], strict=True)]
    assert all(map(any, zip(by_first, by_second, strict=True)))
    assert 0.3 < sum(by_first) / len(by_first) < 0.8
    assert judged(both, drawn[::-1]) == verdicts[::-1]
    assert judged(both, drawn, seed=1) != verdicts


def test_one_human_in_a_list_is_that_human(drawn: list[Pair]) -> None:
    human = HumanConfig(flip=0.1)
    listed, alone = (UtilityJudge(RubricUtilities(), people, "ann") for people in ((human,), human))
    assert listed.revision == alone.revision and judged(listed, drawn) == judged(alone, drawn)
