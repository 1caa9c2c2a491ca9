"""A scalar-head reward model as a scorer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

from rayalign.algorithms.ops import token_tensors
from rayalign.config import LearnerConfig
from rayalign.data.chat import encode_example, load_tokenizer, prompt_ids, reads_same_tokens
from rayalign.data.collate import EncodedRow, collate_examples
from rayalign.errors import InputError
from rayalign.models.spread import frozen_model
from rayalign.types import Batch, Group, Prompt, Score, Trajectory, with_turns


class RewardModelScorer:
    """Scores the last token of prompt and answer.

    Where the reward model has the policy's tokens and chat template it reads the very tokens that were written; else
    the dialogue is rendered anew by its own template.
    """

    def __init__(self, model: str, config: LearnerConfig, policy: str, *, spread: bool = False) -> None:
        """
        Args:
            spread: as of `make_scorer`.
        """
        self.model = frozen_model(model, "scalar", config, spread=spread)
        self._tokenizer = load_tokenizer(model)
        self._same_tokens = reads_same_tokens(self._tokenizer, load_tokenizer(policy))

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """One forward over all candidates of all groups.

        A candidate that the model's template cannot render, or that is longer than the model reads, has no score.
        """
        rows: list[EncodedRow | Score] = []
        for group in groups:
            rows += [self._row(group, trajectory) for trajectory in group.trajectories]
        readable = [row for row in rows if isinstance(row, EncodedRow)]
        values = iter(self._values(readable))
        scores = (_score(next(values)) if isinstance(row, EncodedRow) else row for row in rows)
        return [tuple(islice(scores, len(group.trajectories))) for group in groups]

    def _values(self, rows: Sequence[EncodedRow]) -> list[float]:
        if not rows:
            return []
        rollouts = collate_examples(rows, pad_id=self._tokenizer.pad_token_id)
        scores_B = self.model.evaluate(Batch(token_tensors(rollouts), rollouts.group_B)).scores_B
        assert scores_B is not None
        values: list[float] = scores_B.tolist()
        return values

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt in the reward model's tokens, up to where the answer begins; nothing is cut."""
        return prompt_ids(self._tokenizer, prompt)

    def _row(self, group: Group, trajectory: Trajectory) -> EncodedRow | Score:
        """The tokens that are read, or why they cannot be."""
        try:
            row = self._encode(group, trajectory)
        except InputError as error:
            return Score(None, f"the reward model's {error}")
        limit = self.model.longest
        if limit is not None and len(row.token_ids) > limit:
            return Score(None, f"prompt and answer are longer than the {limit} tokens that the reward model reads")
        return row

    def _encode(self, group: Group, trajectory: Trajectory) -> EncodedRow:
        if self._same_tokens:
            return EncodedRow(trajectory.token_ids, trajectory.loss_mask, group=0)
        prompt = with_turns(group.prompt, trajectory.turns)
        token_ids, mask = encode_example(self._tokenizer, prompt, trajectory.text)
        return EncodedRow(tuple(token_ids), mask, group=0)


def _score(value: float) -> Score:
    return Score(value) if math.isfinite(value) else Score(None, "the reward model's score is not finite")
