"""Token sequences to padded tensors. Shapes: B sequences, T tokens."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rayalign.data.chat import cut_to_fit, encode_example
from rayalign.data.preferences import base_id
from rayalign.errors import InputError
from rayalign.types import Example, Group, Rollouts, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One candidate, ready to be padded."""

    token_ids: tuple[int, ...]
    mask: Sequence[bool]
    """True for each token that is trained on"""
    group: int
    score: float | None = None
    prompt: str = ""
    """The prompt's id, without preferences; all rows of a prompt are held out together."""
    preference: float | None = None
    """of a pair's two rows: the probability that the first one is the better one"""
    desirable: float | None = None
    """of an answer by itself: the probability that it is a good one"""


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example], *, context: int
) -> Iterator[EncodedRow]:
    """Every candidate of every example in at most `context` tokens, each example a group; one example at a time.

    An over-long dialogue loses its oldest turns, the same for all its candidates; an example that still does not fit is
    left out whole, so that no comparison loses its other side. Both are counted in a warning.
    """
    cut = dropped = total = 0
    for group, example in enumerate(examples):
        total += 1
        fitted = _encode_group(tokenizer, example, context)
        if fitted is None:
            dropped += 1
            continue
        answers, lost_turns = fitted
        cut += lost_turns
        desirable = example.desirable
        for (ids, mask), candidate in zip(answers, example.candidates, strict=True):
            prompt = base_id(example.prompt)
            yield EncodedRow(ids, mask, group, candidate.score, prompt, example.preference, desirable)
            desirable = None  # a second candidate is not an answer to this prompt
    if cut or dropped:
        log.warning("%d examples: %d lost early turns, %d left out, to fit %d tokens", total, cut, dropped, context)


_Encoded = list[tuple[tuple[int, ...], tuple[bool, ...]]]


def _encode_group(tokenizer: PreTrainedTokenizerBase, example: Example, context: int) -> tuple[_Encoded, bool] | None:
    """All candidates and whether turns were cut; None where they cannot fit."""
    prompt = example.prompt
    if any(c.turns for c in example.candidates):
        raise InputError(
            f"prompt {prompt.id}: answers after several turns cannot be trained on from a data set; "
            "train online with their environment, or generate them without one"
        )
    answers = [encode_example(tokenizer, prompt, c.text) for c in example.candidates]
    if max(len(ids) for ids, _ in answers) <= context:
        return answers, False
    longest = max(mask[::-1].index(False) for _, mask in answers)
    fitting = cut_to_fit(tokenizer, prompt, context - longest)
    if fitting is None:
        return None
    return [encode_example(tokenizer, fitting, c.text) for c in example.candidates], True


def collate_examples(rows: Sequence[EncodedRow], pad_id: int) -> Rollouts:
    """Rows as tensors; scores are NaN where absent."""
    scores = [float("nan") if row.score is None else row.score for row in rows]
    return padded(
        torch.tensor([len(row.token_ids) for row in rows]),
        _joined((row.token_ids for row in rows), np.int64),
        _joined((row.mask for row in rows), np.bool_),
        group_B=torch.tensor([row.group for row in rows]),
        scores_B=torch.tensor(scores),
        pad_id=pad_id,
    )


def padded(
    lengths_B: Tensor, tokens_N: Tensor, mask_N: Tensor, *, group_B: Tensor, scores_B: Tensor, pad_id: int
) -> Rollouts:
    """Sequences of these lengths, which follow each other in `tokens_N` and `mask_N`, padded on the right."""
    real_BT = torch.arange(int(lengths_B.max())) < lengths_B[:, None]
    input_ids_BT = torch.full(real_BT.shape, pad_id, dtype=torch.long)
    policy_mask_BT = torch.zeros(real_BT.shape, dtype=torch.long)
    input_ids_BT[real_BT] = tokens_N.long()
    policy_mask_BT[real_BT] = mask_N.long()
    return Rollouts(
        input_ids_BT=input_ids_BT,
        attention_mask_BT=real_BT.long(),
        policy_mask_BT=policy_mask_BT,
        group_B=group_B,
        scores_B=scores_B,
    )


def collate_trajectories(groups: Sequence[Group], *, pad_id: int, version: int) -> Rollouts:
    """The trajectories of one iteration as tensors; `version` is that of the weights about to be trained."""
    trajectories = list(chain.from_iterable(group.trajectories for group in groups))
    numbers = chain.from_iterable([number] * len(group.trajectories) for number, group in enumerate(groups))
    scored = list(chain.from_iterable(group.scores for group in groups))
    scores = [score.value for score in scored] or [None] * len(trajectories)
    assert len(scores) == len(trajectories), "one score for each trajectory, or none at all"
    rows = [
        EncodedRow(trajectory.token_ids, trajectory.loss_mask, number, score)
        for trajectory, number, score in zip(trajectories, numbers, scores, strict=True)
    ]
    rollouts = collate_examples(rows, pad_id)
    versions = [trajectory.version for trajectory in trajectories]
    rollouts.ended_B = torch.tensor([float(t.finish_reason == "stop") for t in trajectories])
    rollouts.staleness_B = torch.tensor([0 if written is None else version - written for written in versions])
    rollouts.behaviour_logprobs_BT = _behaviour_logprobs(trajectories, rollouts)
    return rollouts


def _behaviour_logprobs(trajectories: Sequence[Trajectory], rollouts: Rollouts) -> Tensor:
    """The engines' log-probs at the tokens that they wrote; NaN at other trained tokens, 0 at the rest."""
    trained_BT = rollouts.policy_mask_BT.bool()
    written_BT = torch.zeros_like(trained_BT)
    written_BT[rollouts.attention_mask_BT.bool()] = _joined((t.policy_mask for t in trajectories), np.bool_)
    logprobs_BT = torch.zeros(trained_BT.shape).masked_fill(trained_BT, float("nan"))
    logprobs_BT[written_BT] = _joined((t.logprobs for t in trajectories), np.float32)
    return logprobs_BT


def _joined(rows: Iterable[Sequence[float]], dtype: type[np.generic]) -> Tensor:
    return torch.from_numpy(np.fromiter(chain.from_iterable(rows), dtype))
