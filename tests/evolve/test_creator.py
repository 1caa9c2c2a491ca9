from __future__ import annotations

import pytest

from rayalign.config import EvolveStage
from rayalign.errors import InputError
from rayalign.evolve.creator import mixture, rated, selected
from rayalign.types import Candidate, Example, Message, Prompt


def example(name: str, *scores: float | None, topic: str = "") -> Example:
    meta = {"family": topic} if topic else {}
    prompt = Prompt(name, (Message("user", name),), meta)
    return Example(prompt, tuple(Candidate("answer", score=score) for score in scores))


def stage(**settings: object) -> EvolveStage:
    return EvolveStage.model_validate({"kind": "evolve", "examples": "stage:x/drawn", **settings})


EXAMPLES = [
    example("a", 1.0, 4.0, None, topic="fact"),
    example("b", 2.0, 2.0, 2.0, topic="fact"),
    example("c", None, None, topic="list"),
    example("d", 0.0, 1.0, topic="list"),
]


def test_each_prompt_has_its_value_its_weight_and_its_rewards() -> None:
    prompts = rated(EXAMPLES, stage())
    assert [prompt.value for prompt in prompts] == [3.0, 0.0, None, 1.0]
    assert [prompt.weight for prompt in prompts] == [0.75, 0.0, 0.0, 0.25]
    assert prompts[0].rewards == (1.0, 4.0, None)


def test_the_rarest_topic_weighs_more_but_never_a_prompt_without_a_reward() -> None:
    prompts = rated([*EXAMPLES, example("e", 0.0, 0.0, topic="rare")], stage(topic_coefficient=0.5))
    # inverse frequencies 1/2 1/2 1/2 1/2 1, as shares 1/6 1/6 1/6 1/6 1/3; those of c are lost
    weights = [(0.75 + 1 / 6) / 2, (1 / 6) / 2, 0.0, (0.25 + 1 / 6) / 2, (1 / 3) / 2]
    assert [prompt.weight for prompt in prompts] == pytest.approx([weight / sum(weights) for weight in weights])


@pytest.mark.parametrize("kind", ["weighted", "greedy", "stratified"])
def test_a_prompt_without_a_score_is_never_evolved(kind: str) -> None:
    settings = stage(fraction=1.0, selection=kind)
    names = [prompt.prompt.id for prompt in selected(rated(EXAMPLES, settings), settings, 0)]
    assert names == (["a", "b", "d"] if kind == "stratified" else ["a", "d"])


def test_the_share_that_is_evolved() -> None:
    assert [prompt.prompt.id for prompt in selected(rated(EXAMPLES, stage()), stage(fraction=0.5), 0)] == ["a", "d"]
    greedy = stage(fraction=0.25, selection="greedy")
    assert [prompt.prompt.id for prompt in selected(rated(EXAMPLES, greedy), greedy, 0)] == ["a"]
    assert len(selected(rated(EXAMPLES, stage()), stage(fraction=1.0), 0)) == 2  # no more have a weight


def test_without_any_reward_there_is_nothing_to_select_by() -> None:
    with pytest.raises(InputError, match="every reward is absent"):
        rated([example("a", None)], stage())


def test_the_output_has_as_many_prompts_as_came_in() -> None:
    base = [example(str(number)).prompt for number in range(10)]
    evolved = [example(f"new {number}").prompt for number in range(20)]
    prompts = mixture(base, evolved, 0.2, seed=0)
    assert sum(prompt in evolved for prompt in prompts) == 8
    assert len({prompt.id for prompt in prompts}) == 10
    assert prompts == mixture(base, evolved, 0.2, seed=0) != mixture(base, evolved, 0.2, seed=1)
    few = mixture(base, evolved[:3], 0.2, seed=0)
    assert (len(few), sum(prompt in evolved for prompt in few)) == (10, 3)
    assert sorted(prompt.id for prompt in mixture(base, evolved, 1.0, seed=0)) == [prompt.id for prompt in base]
