"""Each preference of a profile is scored by itself, with the answer in the scored text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rayalign.config import load_registry
from rayalign.data.preferences import under_profile
from rayalign.errors import InputError
from rayalign.scoring.parts import PartsScorer
from rayalign.scoring.preference import PreferenceScorer
from rayalign.types import Group, Message, Prompt, Score, Segment, Trajectory

REGISTRY = load_registry()


class Reader:
    """Its tokens are words; it remembers the texts that it scored, and scores by their length."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.words: list[str] = []

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        return tuple(self._id(word) for message in prompt.messages for word in message.content.split())

    def _id(self, word: str) -> int:
        if word not in self.words:
            self.words.append(word)
        return self.words.index(word)

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        scores: list[tuple[Score, ...]] = []
        for group in groups:
            texts = [" ".join(self.words[i] for i in trajectory.token_ids) for trajectory in group.trajectories]
            self.texts += texts
            scores.append(tuple(Score(float(len(text.split()))) for text in texts))
        return scores


def group(reader: Reader, profile: str, *answers: str) -> Group:
    plain = Prompt("p", (Message("user", "why is the sky blue ?"),))
    prompt = under_profile(plain, REGISTRY.profile(profile), REGISTRY)
    prompt_ids = reader.encode(prompt)
    trajectories = []
    for index, answer in enumerate(answers):
        ids = reader.encode(Prompt("", (Message("assistant", answer),)))
        segments = (Segment(0, "template"), Segment(len(prompt_ids), "policy", 0))
        written = Trajectory("g", index, (*prompt_ids, *ids), segments, (0.0,) * len(ids), "stop", answer)
        trajectories.append(written)
    return Group("g", prompt, 0, tuple(trajectories))


def test_the_scored_text_names_one_preference_and_holds_the_answer() -> None:
    reader = Reader()
    both = group(reader, "P1A+P2B", "light scatters", "it is far away")
    alone = group(reader, "P1A", "light scatters", "it is far away")
    PreferenceScorer(reader, "P1A").score([both])
    reader.score([alone])
    assert reader.texts[:2] == reader.texts[2:]
    assert reader.texts[0].endswith("light scatters") and reader.texts[1].endswith("it is far away")


def test_only_the_preferences_of_the_profile_are_scored() -> None:
    reader = Reader()
    parts = PartsScorer({name: PreferenceScorer(reader, name) for name in ("P1A", "P1B", "P2B")})
    (scores,) = parts.score([group(reader, "P1A+P2B", "light", "dust")])
    assert [[part.name for part in score.parts] for score in scores] == [["P1A", "P2B"]] * 2
    assert len(reader.texts) == 4


def test_the_trained_tokens_are_those_of_the_answer() -> None:
    reader = Reader()
    scorer = PreferenceScorer(reader, "P1A")
    before = group(reader, "P1A+P2B", "light scatters")
    after = scorer._under(before)
    masks = [sum(trajectory.loss_mask) for trajectory in (before.trajectories[0], after.trajectories[0])]
    assert masks == [2, 2]
    assert len(after.trajectories[0].loss_mask) == len(after.trajectories[0].token_ids)


def test_a_preference_that_the_prompt_lacks_is_refused() -> None:
    reader = Reader()
    with pytest.raises(InputError, match="profile P1A, which does not hold P3B"):
        PreferenceScorer(reader, "P3B").score([group(reader, "P1A", "light")])
