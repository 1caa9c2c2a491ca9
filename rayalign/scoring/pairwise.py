"""A pairwise reward model as a scorer, and as what compares answers. Shapes: K answers to a prompt.

    group -> each two answers, in both orders -> scores_KK -> matrix_KK -> the mean of each row without its diagonal

`matrix_KK[i, j]` is the probability that answer i beats answer j, and `matrix_KK[i, j] + matrix_KK[j, i]` is 1. No
third answer changes it. Two answers of the same tokens have exactly 1/2, without the model. A comparison that is too
long for the model, that its template refuses, or that is not finite is absent (NaN): means leave it out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, combinations

import torch
from torch import Tensor

from rayalign.algorithms.ops import token_tensors
from rayalign.algorithms.preference import comparison_probabilities, mean_win_probabilities, order_free_logits
from rayalign.config import LearnerConfig
from rayalign.data.chat import load_tokenizer, prompt_ids, reads_same_tokens
from rayalign.data.collate import collate_examples
from rayalign.data.pairs import Question
from rayalign.data.two_answers import PairEncoder, TwoAnswers
from rayalign.errors import InputError
from rayalign.models.spread import frozen_model
from rayalign.scoring.base import ALONE
from rayalign.types import TRAINED, Batch, Candidate, Group, Prompt, Score, Trajectory

_Part = tuple[tuple[int, ...], tuple[int, ...]] | None
"""tokens of a prompt and of an answer to it; None where there are none"""
ROWS = 1024
"""sequences that are padded together; of these the model reads `micro_tokens` at a time"""


class PairwiseScorer:
    """The mean probability of each answer to beat the other answers to its prompt.

    An only answer has no score, with that reason. As a reward model's scorer does, it reads the very tokens that were
    written where the policy has its tokenizer and chat template, and else the text.
    """

    def __init__(self, model: str, config: LearnerConfig, policy: str, *, spread: bool = False) -> None:
        """
        Args:
            spread: as of `make_scorer`.
        """
        self.model = frozen_model(model, "pairwise", config, spread=spread)
        self._tokenizer = load_tokenizer(model)
        self._encoder = PairEncoder(self._tokenizer, self.model.longest)
        self._same_tokens = reads_same_tokens(self._tokenizer, load_tokenizer(policy))

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """As `Scorer.score`."""
        scores: list[tuple[Score, ...]] = []
        for matrix_KK in self.matrices(groups):
            absence = ALONE if len(matrix_KK) == 1 else self._absence
            means = mean_win_probabilities(matrix_KK).tolist()
            scores.append(tuple(_score(mean, absence) for mean in means))
        return scores

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt in the model's tokens, up to where the first answer begins; nothing is cut."""
        return prompt_ids(self._tokenizer, prompt)

    def matrices(self, groups: Sequence[Group]) -> list[Tensor]:
        """`matrix_KK` of each group, in float64."""
        pairs = [self._pairs(group) for group in groups]
        values = self._read(chain.from_iterable(own.values() for own in pairs))
        matrices: list[Tensor] = []
        for group, own in zip(groups, pairs, strict=True):
            size = len(group.trajectories)
            scores_KK = torch.full((size, size), math.nan, dtype=torch.float64)
            for (i, j), pair in own.items():
                scores_KK[i, j], scores_KK[j, i] = _both_orders(pair, values)
            matrices.append(comparison_probabilities(scores_KK))
        return matrices

    def compare(self, questions: Sequence[Question]) -> list[Score]:
        """The probability that the first answer of each question is the better one; absent with its reason."""
        pairs = [self._join(*self._rendered(q.prompt, (q.first, q.second))) for q in questions]
        values = self._read(pairs)
        scores_N2 = torch.tensor([_both_orders(pair, values) for pair in pairs], dtype=torch.float64).reshape(-1, 2)
        probabilities_N = torch.sigmoid(order_free_logits(scores_N2[:, 0], scores_N2[:, 1]))
        return [_score(probability, self._absence) for probability in probabilities_N.tolist()]

    @property
    def _absence(self) -> str:
        return (
            f"with another answer it is longer than the {self.model.longest} tokens that the pairwise reward model "
            "reads, or its template refuses both, or its score is not finite"
        )

    def _pairs(self, group: Group) -> dict[tuple[int, int], TwoAnswers | None]:
        """Each two answers of a group by their places; None where they are too long."""
        parts = self._split(group) if self._same_tokens else self._rendered(group.prompt, group.trajectories)
        pairs: dict[tuple[int, int], TwoAnswers | None] = {}
        for (i, first), (j, second) in combinations(enumerate(parts), 2):
            pairs[i, j] = self._join(first, second)
        return pairs

    def _join(self, first: _Part, second: _Part) -> TwoAnswers | None:
        if first is None or second is None:
            return None
        return self._encoder.join(first[0], first[1], second[1])

    def _split(self, group: Group) -> list[_Part]:
        """The very tokens that were written."""
        parts: list[_Part] = []
        for trajectory in group.trajectories:
            start = _answer_start(trajectory)
            parts.append((trajectory.token_ids[:start], trajectory.token_ids[start:]))
        return parts

    def _rendered(self, prompt: Prompt, answers: Sequence[Trajectory | Candidate]) -> list[_Part]:
        """Prompt and answer by the model's own template; None for an answer that it refuses."""
        try:
            start = self.encode(prompt)
        except InputError:
            return [None] * len(answers)
        parts: list[_Part] = []
        for answer in answers:
            try:
                parts.append((start, self._encoder.answer(start, prompt, Candidate(answer.text, turns=answer.turns))))
            except InputError:
                parts.append(None)
        return parts

    def _read(self, pairs: Iterable[TwoAnswers | None]) -> dict[TwoAnswers, float]:
        """The model's score of each sequence, which it reads once however often it occurs."""
        needed: dict[TwoAnswers, None] = {}
        for pair in pairs:
            if pair is not None and pair.first != pair.second:
                needed |= dict.fromkeys((pair, pair.swapped()))
        sequences = list(needed)
        values: list[float] = []
        for start in range(0, len(sequences), ROWS):
            rows = [sequence.row() for sequence in sequences[start : start + ROWS]]
            rollouts = collate_examples(rows, pad_id=self._tokenizer.pad_token_id)
            scores_B = self.model.evaluate(Batch(token_tensors(rollouts), rollouts.group_B)).scores_B
            assert scores_B is not None
            values += scores_B.masked_fill(~scores_B.isfinite(), math.nan).tolist()
        return dict(zip(sequences, values, strict=True))


def _both_orders(pair: TwoAnswers | None, values: Mapping[TwoAnswers, float]) -> tuple[float, float]:
    """The model's score of a pair as it is, and in the other order."""
    if pair is None:
        return math.nan, math.nan
    if pair.first == pair.second:
        return 0.0, 0.0
    return values[pair], values[pair.swapped()]


def _score(probability: float, absence: str) -> Score:
    return Score(probability) if math.isfinite(probability) else Score(None, absence)


def _answer_start(trajectory: Trajectory) -> int:
    """Where the prompt ends."""
    starts = [start for author, start, _ in trajectory.spans if author in TRAINED]
    return starts[0] if starts else len(trajectory.token_ids)
