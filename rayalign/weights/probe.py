"""The proof of a weight transfer: a few fixed sequences, scored by the trainer and by the engine, must agree.

Trainer and engine round differently, and a single token may differ much in bf16 (a maximum of 0.32 nats over 25 tokens
was reported for a healthy Qwen3-1.7B). So the gap is the root mean square over all tokens, and its bound is measured:
the first transfer shows how far apart the two are on this hardware, and later ones may not be much further.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rayalign.errors import WeightError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "probe.json"
_CAPS = {"fp32": 1e-3, "float32": 1e-3, "bf16": 0.15, "bfloat16": 0.15}
"""root mean square gap [nats] that no healthy pair of trainer and engine reaches"""
_FLOORS = {"fp32": 1e-4, "float32": 1e-4, "bf16": 0.02, "bfloat16": 0.02}
"""root mean square gap [nats] that rounding alone may cause at any version"""
_GROWTH = 4.0
"""how many times the first gap a later one may be"""


@dataclass(frozen=True, slots=True)
class Probe:
    """What the trainer computes with one version of the weights."""

    version: int
    token_ids: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]
    """at temperature 1, of each token after the first"""
    tolerance: float
    """largest root mean square gap allowed [nats]"""


def tolerance(*precisions: str) -> float:
    """The gap allowed between computers of these precisions before any was measured: that of the coarsest."""
    return max(_CAPS[p] for p in precisions)


class Bound:
    """The gap allowed at each version; the first transfer calibrates it.

    Args:
        precisions: of trainer and engine; the coarsest counts.
    """

    def __init__(self, *precisions: str) -> None:
        self._cap = tolerance(*precisions)
        self._floor = max(_FLOORS[p] for p in precisions)
        self._first_gap: float | None = None

    @property
    def value(self) -> float:
        """The bound that holds for the next transfer [nats]."""
        if self._first_gap is None:
            return self._cap
        return min(self._cap, max(self._floor, _GROWTH * self._first_gap))

    def observe(self, gap: float) -> None:
        """Take in the gap of a proven transfer; the first one calibrates."""
        if self._first_gap is None:
            self._first_gap = gap


def probe_tokens(vocab_size: int, avoid: Collection[int] = ()) -> tuple[tuple[int, ...], ...]:
    """Two random sequences of token ids, the same for the same arguments; `avoid` names special tokens to leave out."""
    allowed = sorted(set(range(vocab_size)) - set(avoid))
    draw = random.Random(0)
    return tuple(tuple(draw.choices(allowed, k=12)) for _ in range(2))


def tokens_of(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], ...]:
    """The probe's sequences for models with this tokenizer."""
    return probe_tokens(len(tokenizer), avoid=tokenizer.all_special_ids)


def data_tokens(rows: Iterable[Sequence[int]], count: int = 4, longest: int = 24) -> tuple[tuple[int, ...], ...]:
    """The probe's sequences from encoded data: the ends of the first rows that have at least two tokens."""
    usable = (tuple(row[-longest:]) for row in rows if len(row) > 1)
    return tuple(itertools.islice(usable, count))


def gap(probe: Probe, engine_logprobs: Sequence[Sequence[float]]) -> float:
    """The root mean square difference [nats] of the probe and what an engine computed; infinite where one is NaN.

    Raises:
        WeightError: the shapes differ.
    """
    if [len(row) for row in engine_logprobs] != [len(row) for row in probe.logprobs]:
        raise WeightError(f"the probe of version {probe.version} came back in another shape; score all its sequences")
    trainer = np.concatenate([np.asarray(row, dtype=np.float64) for row in probe.logprobs])
    engine = np.concatenate([np.asarray(row, dtype=np.float64) for row in engine_logprobs])
    mean_square = float(np.mean(np.square(trainer - engine)))
    return math.sqrt(mean_square) if math.isfinite(mean_square) else math.inf


def check(probe: Probe, engine_logprobs: Sequence[Sequence[float]]) -> float:
    """The gap between the probe and what an engine computed.

    Raises:
        WeightError: it is beyond the tolerance, or not a number, or the shapes differ.
    """
    size = gap(probe, engine_logprobs)
    if size > probe.tolerance:
        raise WeightError(
            f"the engine computes something else than the trainer with version {probe.version}: log-probs differ by "
            f"{size:.3g} nats (root mean square), allowed {probe.tolerance:.3g}; the weights are stale, mixed or cast"
        )
    return size


def save(probe: Probe, folder: Path) -> None:
    """Write the probe beside the weights of a model folder."""
    (folder / FILE).write_text(json.dumps(asdict(probe)), encoding="utf-8")


def load(folder: Path) -> Probe:
    """Read the probe of a model folder; WeightError where it has none, or one of another form."""
    try:
        row = json.loads((folder / FILE).read_text(encoding="utf-8"))
        ids, logprobs = (tuple(map(tuple, row[key])) for key in ("token_ids", "logprobs"))
        return Probe(row["version"], ids, logprobs, row["tolerance"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise WeightError(f"{folder / FILE} cannot be read ({error!r}); write the model folder again") from error
