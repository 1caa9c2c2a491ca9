from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rayalign.config import LearnerConfig, RewardSource, load_registry
from rayalign.data.chat import encode_example
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.data.pairs import Question
from rayalign.data.preferences import under_profile
from rayalign.data.two_answers import PairEncoder
from rayalign.models.load import load_scalar, make_preset
from rayalign.scoring.base import ALONE
from rayalign.scoring.pairwise import PairwiseScorer
from rayalign.scoring.preference import PreferenceScorer
from rayalign.scoring.reward_model import RewardModelScorer
from rayalign.scoring.sources import RewardSpec, frozen_models, make_scorer
from rayalign.types import Candidate, Group, Message, Prompt, Score, Segment, Trajectory

PROMPT = Prompt("p", (Message("user", "water please"),))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pairwise reward model with a random head, whose scores are far from 0."""
    start, folder = (tmp_path_factory.mktemp(name) for name in ("start", "pairwise"))
    make_preset("nano", tokenizer, 0, start)
    made = load_scalar(str(start), LearnerConfig(), seed=0, pairwise=True)
    made.score.weight.data *= 10
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def scorer(model: str) -> PairwiseScorer:
    return PairwiseScorer(model, LearnerConfig(micro_tokens=128), model)


def written(tokenizer: Any, *answers: str, end: bool = True, prompt: Prompt = PROMPT) -> Group:
    """A group as a policy of this tokenizer writes it; without `end` the answers were cut."""
    trajectories = []
    for index, text in enumerate(answers):
        token_ids, mask = encode_example(tokenizer, prompt, text)
        token_ids = token_ids if end else token_ids[:-1]
        segments = (Segment(0, "template"), Segment(mask.index(True), "policy", 0))
        trajectories.append(Trajectory("g", index, token_ids, segments, (), "stop", text))
    return Group("g", prompt, 0, tuple(trajectories))


@torch.no_grad()
def plain(model: str, tokenizer: Any, first: str, second: str) -> float:
    """The probability that the first beats the second, each order read by itself."""
    head = load_scalar(model, LearnerConfig(), seed=0, pairwise=True)

    def score(*texts: str) -> float:
        one, other = map(Candidate, texts)
        tokens, _ = PairEncoder(tokenizer, None).encode(PROMPT, one, other)
        assert tokens is not None
        hidden = head.model(torch.tensor([tokens.row().token_ids])).last_hidden_state
        return float(head.score(hidden)[0, -1, 0])

    return 1 / (1 + math.exp(-(score(first, second) - score(second, first)) / 2))


def test_the_matrix_is_of_both_orders_read_one_at_a_time(scorer: PairwiseScorer, model: str, tokenizer: Any) -> None:
    answers = ("hay", "barn barn the please water", "the the the")
    (matrix,) = scorer.matrices([written(tokenizer, *answers)])
    for i, first in enumerate(answers):
        for j, second in enumerate(answers):
            assert matrix[i, j].item() == pytest.approx(plain(model, tokenizer, first, second), abs=1e-5)
    torch.testing.assert_close(matrix + matrix.T, torch.ones_like(matrix), atol=1e-15, rtol=0)
    assert (matrix.diagonal() == 0.5).all()
    assert (matrix - 0.5).abs()[~torch.eye(3, dtype=torch.bool)].min() > 0.001


def test_scores_are_mean_probabilities_against_the_others(scorer: PairwiseScorer, tokenizer: Any) -> None:
    groups = [written(tokenizer, "hay", "barn", "the"), written(tokenizer, "barn the", "hay")]
    scores = scorer.score(groups)
    for matrix, own in zip(scorer.matrices(groups), scores, strict=True):
        expected = ((matrix.sum(1) - 0.5) / (len(matrix) - 1)).tolist()
        assert [score.value for score in own] == pytest.approx(expected)
    assert [len(own) for own in scores] == [3, 2]


def test_no_third_answer_changes_a_probability(scorer: PairwiseScorer, tokenizer: Any) -> None:
    answers = ("hay", "barn barn", "the please")
    (three,) = scorer.matrices([written(tokenizer, *answers)])
    for i, j in ((0, 1), (0, 2), (1, 2)):
        (two,) = scorer.matrices([written(tokenizer, answers[i], answers[j])])
        assert two[0, 1].item() == pytest.approx(three[i, j].item(), abs=1e-6)


def test_equal_answers_have_exactly_a_half(scorer: PairwiseScorer, tokenizer: Any) -> None:
    (matrix,) = scorer.matrices([written(tokenizer, "hay", "barn", "hay")])
    assert matrix[0, 2] == matrix[2, 0] == 0.5
    assert matrix[0, 1] == matrix[2, 1]
    assert scorer.score([written(tokenizer, "hay", "hay")]) == [(Score(0.5), Score(0.5))]
    assert scorer.compare([Question(PROMPT, Candidate("hay"), Candidate("hay"))]) == [Score(0.5)]


def test_an_only_answer_has_no_score_and_says_why(scorer: PairwiseScorer, tokenizer: Any) -> None:
    assert scorer.score([written(tokenizer, "hay")]) == [(Score(None, ALONE),)]
    assert scorer.score([Group("g", PROMPT, 0, ())]) == [()]


def test_what_is_too_long_is_absent_and_the_others_are_compared(model: str, tokenizer: Any, tmp_path: Path) -> None:
    group = written(tokenizer, "hay", "barn", "the " * 30)
    folder = tmp_path / "short"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 32}))
    short = PairwiseScorer(str(folder), LearnerConfig(), str(folder))
    (matrix,) = short.matrices([group])
    assert matrix.isnan().tolist() == [[False, False, True], [False, False, True], [True, True, False]]
    hay, barn, long = short.score([group])[0]
    assert (hay.value, barn.value) == (matrix[0, 1].item(), matrix[1, 0].item())
    assert long.value is None and "longer than the 32 tokens that the pairwise reward model reads" in str(long.reason)
    question = Question(PROMPT, Candidate("hay"), Candidate("the " * 30))
    assert short.compare([question]) == [long]


def test_the_very_tokens_are_read_where_the_tokenizer_is_the_policys(scorer: PairwiseScorer, tokenizer: Any) -> None:
    whole, cut = (scorer.matrices([written(tokenizer, "hay barn", "the", end=end)])[0] for end in (True, False))
    assert whole[0, 1].item() != pytest.approx(cut[0, 1].item(), abs=1e-5)


def test_for_another_tokenizer_the_text_is_rendered_anew(
    scorer: PairwiseScorer, model: str, tokenizer: Any, tmp_path: Path
) -> None:
    other: Any = build_tokenizer()
    other.add_tokens(["anotherword"])
    other.save_pretrained(tmp_path)
    group = written(tokenizer, "hay barn", "the")
    foreign = replace(group, trajectories=tuple(replace(t, token_ids=(7, 8, 9)) for t in group.trajectories))
    (matrix,) = PairwiseScorer(model, LearnerConfig(), str(tmp_path)).matrices([foreign])
    torch.testing.assert_close(matrix, scorer.matrices([group])[0], atol=1e-6, rtol=0)


def test_a_dialogue_that_the_template_refuses_has_no_verdict(
    scorer: PairwiseScorer, model: str, tmp_path: Path
) -> None:
    folder = tmp_path / "strict"
    shutil.copytree(model, folder)
    template = (folder / "chat_template.jinja").read_text()
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(refusal + template)
    strict = PairwiseScorer(str(folder), LearnerConfig(), model)
    system = Prompt("s", (Message("system", "be polite"), *PROMPT.messages))
    refused, compared = strict.compare([Question(p, Candidate("hay"), Candidate("barn")) for p in (system, PROMPT)])
    assert refused.value is None and "its template refuses both" in str(refused.reason)
    assert compared.value is not None


def test_questions_have_the_probabilities_of_the_matrix(scorer: PairwiseScorer, tokenizer: Any) -> None:
    (matrix,) = scorer.matrices([written(tokenizer, "hay", "barn the")])
    hay, barn = Candidate("hay"), Candidate("barn the")
    first, second = scorer.compare([Question(PROMPT, hay, barn), Question(PROMPT, barn, hay)])
    assert (first.value, second.value) == pytest.approx((matrix[0, 1].item(), matrix[1, 0].item()), abs=1e-6)
    assert scorer.compare([]) == []


def test_under_a_preference_it_reads_the_prompt_that_names_this_one_alone(
    scorer: PairwiseScorer, tokenizer: Any
) -> None:
    registry = load_registry()
    prompts = [under_profile(PROMPT, registry.profile(name), registry) for name in ("P1A+P2B", "P1A")]
    both, alone = (written(tokenizer, "hay", "barn the", prompt=prompt) for prompt in prompts)
    assert PreferenceScorer(scorer, "P1A").score([both]) == scorer.score([alone])
    assert scorer.score([both]) != scorer.score([alone])


def test_a_folder_says_whether_its_model_compares(model: str, tokenizer: Any, tmp_path: Path) -> None:
    make_preset("nano", tokenizer, 0, tmp_path)
    sources = (RewardSource(source=model, name="pairs"), RewardSource(source=str(tmp_path), name="single"))
    parts: Any = make_scorer(RewardSpec(sources, LearnerConfig(), model, timeout=1.0, named=True))
    assert [type(part) for part in parts.scorers.values()] == [PairwiseScorer, RewardModelScorer]
    assert len(frozen_models(parts)) == 2
    scores = parts.score([written(tokenizer, "hay", "barn")])[0]
    assert [[part.name for part in score.parts] for score in scores] == [["pairs", "single"]] * 2
