from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from rayalign.config import LearnerConfig, RewardSource, load_registry
from rayalign.data.chat import encode_example
from rayalign.data.paddock import prompts
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.data.preferences import under_profile
from rayalign.models.load import Frozen, load_scalar, make_preset
from rayalign.scoring.parts import PartsScorer
from rayalign.scoring.preference import PreferenceScorer
from rayalign.scoring.reward_model import RewardModelScorer, _score
from rayalign.scoring.sources import RewardSpec, frozen_models, make_scorer
from rayalign.types import Group, Message, Prompt, Score, Segment, Trajectory

WORDS = ("yes", "no", "the", "please", "thanks")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reward model with a random head."""
    start, folder = (tmp_path_factory.mktemp(name) for name in ("start", "reward"))
    make_preset("nano", tokenizer, 0, start)
    load_scalar(str(start), LearnerConfig(), seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def group(tokenizer: Any, name: str, *answers: str) -> Group:
    return answered(tokenizer, Prompt(name, (Message("user", " ".join(WORDS[: 2 + len(name)])),)), *answers)


def answered(tokenizer: Any, prompt: Prompt, *answers: str) -> Group:
    trajectories = []
    for index, text in enumerate(answers):
        token_ids, mask = encode_example(tokenizer, prompt, text)
        segments = (Segment(0, "template"), Segment(len(mask) - sum(mask), "policy", 0))
        logprobs = (0.0,) * sum(mask)
        trajectories.append(Trajectory(prompt.id, index, tuple(token_ids), segments, logprobs, "stop", text))
    return Group(prompt.id, prompt, 0, tuple(trajectories))


@torch.no_grad()
def plain(model: str, groups: list[Group]) -> list[list[float]]:
    """The head's output at the last token, one answer at a time."""
    read = load_scalar(model, LearnerConfig(), seed=0)
    return [
        [float(read.score(read.model(torch.tensor([t.token_ids])).last_hidden_state)[0, -1, 0]) for t in g.trajectories]
        for g in groups
    ]


def test_scores_are_the_heads_output_at_the_last_token_in_order(model: str, tokenizer: Any) -> None:
    groups = [group(tokenizer, "a", "yes", "no no the please thanks"), group(tokenizer, "bb", "the the the")]
    found = RewardModelScorer(model, LearnerConfig(micro_tokens=16), model).score(groups)
    assert [len(scores) for scores in found] == [2, 1]
    assert len({score.value for scores in found for score in scores}) == 3
    for scores, expected in zip(found, plain(model, groups), strict=True):
        assert [score.value for score in scores] == pytest.approx(expected, abs=1e-5)


def test_the_very_tokens_are_read_where_the_tokenizer_is_the_policys(model: str, tokenizer: Any) -> None:
    scorer = RewardModelScorer(model, LearnerConfig(), model)
    written = group(tokenizer, "a", "yes no")
    cut = Group("a", written.prompt, 0, (_without_end(written.trajectories[0]),))
    assert scorer.score([cut])[0][0].value == pytest.approx(plain(model, [cut])[0][0], abs=1e-5)
    assert scorer.score([cut])[0][0].value != pytest.approx(plain(model, [written])[0][0], abs=1e-5)


def more_words(tokenizer: Any) -> None:
    tokenizer.add_tokens(["anotherword"])


def another_template(tokenizer: Any) -> None:
    tokenizer.chat_template = "please " + tokenizer.chat_template


@pytest.mark.parametrize("change", [more_words, another_template])
def test_for_another_tokenizer_the_text_is_rendered_anew(
    change: Callable[[Any], None], model: str, tokenizer: Any, tmp_path: Path
) -> None:
    other = build_tokenizer()
    change(other)
    other.save_pretrained(tmp_path)
    written = group(tokenizer, "a", "yes no")
    foreign = Group("a", written.prompt, 0, (_with_tokens(written.trajectories[0], (7, 8, 9)),))
    scorer = RewardModelScorer(model, LearnerConfig(), str(tmp_path))
    assert scorer.score([foreign])[0][0].value == pytest.approx(plain(model, [written])[0][0], abs=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_absent_with_its_reason_and_never_zero(value: float) -> None:
    assert _score(value) == Score(None, "the reward model's score is not finite")
    assert _score(0.0) == Score(0.0)


def test_what_the_model_cannot_read_has_no_score_and_says_why(model: str, tokenizer: Any, tmp_path: Path) -> None:
    other = build_tokenizer()
    more_words(other)
    other.save_pretrained(tmp_path)
    limit = AutoConfig.from_pretrained(model).max_position_embeddings
    written = group(tokenizer, "a", "yes", "no " * limit)
    scorer = RewardModelScorer(model, LearnerConfig(), str(tmp_path))
    short, long = scorer.score([written])[0]
    assert short.value is not None
    assert long == Score(None, f"prompt and answer are longer than the {limit} tokens that the reward model reads")
    scorer._tokenizer.chat_template = "{{ raise_exception('no such dialogue') }}"
    for score in scorer.score([written])[0]:
        assert score.value is None
        assert "the reward model's chat template: refuses the dialogue of roles" in str(score.reason)


def _without_end(t: Trajectory) -> Trajectory:
    return Trajectory(t.group_id, t.index, t.token_ids[:-1], t.segments, t.logprobs[:-1], "length", t.text)


def _with_tokens(t: Trajectory, token_ids: tuple[int, ...]) -> Trajectory:
    segments = (Segment(0, "template"), Segment(1, "policy", 0))
    return Trajectory(t.group_id, t.index, token_ids, segments, (0.0, 0.0), "stop", t.text)


def test_the_models_of_a_reward_are_those_of_all_its_parts(model: str) -> None:
    sources = (RewardSource(source=model, name="judge"), RewardSource(source="rules:length", name="brief"))
    scorer = make_scorer(RewardSpec(sources, LearnerConfig(), model, timeout=1.0, named=True))
    (frozen,) = frozen_models(scorer)
    assert isinstance(frozen, Frozen)
    single = make_scorer(RewardSpec(sources[1:], LearnerConfig(), model, timeout=1.0))
    assert frozen_models(single) == []


def test_the_preferences_of_a_reward_share_one_model_and_score_by_themselves(model: str, tokenizer: Any) -> None:
    registry = load_registry()
    sources = [RewardSource(source=model, preference=name) for name in ("P1A", "P2B")]
    scorer = make_scorer(RewardSpec(tuple(sources), LearnerConfig(), model, timeout=1.0, named=True))
    assert isinstance(scorer, PartsScorer)
    parts = scorer.scorers.values()
    assert all(isinstance(part, PreferenceScorer) for part in parts)
    assert len({id(part.scorer) for part in parts if isinstance(part, PreferenceScorer)}) == 1
    assert len(frozen_models(scorer)) == 1

    plain_prompt = next(prompt for prompt in prompts(0, "test", 20) if '"style":{}' in prompt.meta["task"])
    under = {name: under_profile(plain_prompt, registry.profile(name), registry) for name in ("P1A", "P2B", "P1A+P2B")}
    ((score,),) = scorer.score([answered(tokenizer, under["P1A+P2B"], "yes no")])
    alone = plain(model, [answered(tokenizer, under[name], "yes no") for name in ("P1A", "P2B")])
    assert [part.name for part in score.parts] == ["P1A", "P2B"]
    assert [part.value for part in score.parts] == pytest.approx([values[0] for values in alone], abs=1e-5)
    assert alone[0] != pytest.approx(alone[1], abs=1e-4)
