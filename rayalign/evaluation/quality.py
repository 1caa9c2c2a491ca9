"""Outputs measured without a judge: perplexity by an independent model, reward by any reward model (RRHF's axes)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rayalign.algorithms.ops import token_tensors
from rayalign.config import LearnerConfig
from rayalign.data.chat import encode_continuation, encode_example, load_tokenizer
from rayalign.data.collate import EncodedRow, collate_examples
from rayalign.data.files import Row
from rayalign.dialogues import dialogue_text
from rayalign.errors import InputError
from rayalign.evaluation.head_to_head import generator_of, output_rows
from rayalign.evaluation.tables import prompt_of
from rayalign.models.load import Frozen
from rayalign.statistics.intervals import Interval, mean_interval
from rayalign.types import Batch, Message, Prompt, Score

Items = Sequence[tuple[Prompt, str]]
_CHUNK = 32
"""answers in one forward pass"""


class Quality(NamedTuple):
    """One file's mean over its answers."""

    name: str
    """the generators, else the file's name"""
    interval: Interval
    """clustered by prompt"""
    absent: dict[str, int]
    """why answers have no score, the commonest reason first"""


def quality(path: Path, scores: Callable[[Items], list[Score]], *, exponential: bool = False) -> Quality:
    """The mean score of a file of outputs in AlpacaEval's schema, or exp of it; a prompt may have several answers.

    Raises:
        InputError: no such file, a bad row, or no answer that can be scored.
    """
    rows = list(output_rows(path))
    items = [_item(row) for row in rows]
    answer_scores: list[Score] = []
    for start in range(0, len(items), _CHUNK):
        answer_scores.extend(scores(items[start : start + _CHUNK]))
    absent = Counter(score.reason or "" for score in answer_scores if score.value is None)
    if len(answer_scores) == absent.total():
        raise InputError(f"{path}: no answer can be scored: {next(iter(absent))}")
    names = dict.fromkeys(generator_of(row, path) for row in rows)
    values = [score.value for score in answer_scores]
    interval = mean_interval(values, [prompt.id for prompt, _ in items])
    if exponential:
        mean, low, high = np.exp(interval[:3]).tolist()
        interval = Interval(mean, low, high, interval.n)
    return Quality(", ".join(names), interval, dict(absent.most_common()))


def _item(row: Row) -> tuple[Prompt, str]:
    text = prompt_of(row)
    return Prompt(text, (Message("user", text),)), row["output"]


class NegativeLogprob:
    """Scores an answer by the mean negative log-prob of its tokens given the prompt [nats], under a causal model.

    With a chat template the answer stands in its dialogue and ends with its end token; without one it follows the
    prompt and an empty line as plain text.

    Raises:
        InputError: no such model.
    """

    def __init__(self, path: str, *, context: int) -> None:
        self._model = Frozen(path, "causal", LearnerConfig())
        self._tokenizer = load_tokenizer(path, dialogue=False)
        self._context = min(context, self._tokenizer.model_max_length)

    def scores(self, items: Items) -> list[Score]:
        """One for each answer; absent where it is empty, too long or not finite."""
        rows = [self._encode(prompt, answer) for prompt, answer in items]
        problems = [self._problem(row) for row in rows]
        sound_rows = [row for row, problem in zip(rows, problems, strict=True) if problem is None]
        means = iter(self._mean_logprobs(sound_rows) if sound_rows else ())
        return [_score(next(means)) if problem is None else Score(None, problem) for problem in problems]

    def _mean_logprobs(self, rows: Sequence[EncodedRow]) -> list[float]:
        rollouts = collate_examples(rows, self._tokenizer.pad_token_id or 0)
        mask_BT = rollouts.policy_mask_BT
        logprobs_BT = self._model.evaluate(Batch(token_tensors(rollouts), rollouts.group_B)).logprobs_BT
        assert logprobs_BT is not None
        means_B: list[float] = ((logprobs_BT * mask_BT).sum(1) / mask_BT.sum(1)).tolist()
        return means_B

    def _problem(self, row: EncodedRow) -> str | None:
        if not any(row.mask):
            return "the answer is empty"
        if len(row.token_ids) > self._context:
            return f"longer than {self._context} tokens with its prompt"
        return None

    def _encode(self, prompt: Prompt, answer: str) -> EncodedRow:
        if not answer:
            return EncodedRow((), (), group=0)
        if self._tokenizer.chat_template:
            return EncodedRow(*encode_example(self._tokenizer, prompt, answer), group=0)
        before = f"{dialogue_text(prompt.messages)}\n\n"
        head = self._tokenizer(before, split_special_tokens=True).input_ids
        _, tail = encode_continuation(self._tokenizer, before, answer)
        return EncodedRow((*head, *tail), [False] * len(head) + [True] * len(tail), group=0)


def _score(mean_logprob: float) -> Score:
    if math.isfinite(mean_logprob):
        return Score(-mean_logprob)
    return Score(None, "the log-probs are not finite")
