"""The proof of a weight transfer: a few fixed sequences, scored by the trainer and by the engine, must agree."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rayalign.errors import WeightError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "probe.json"
_TOLERANCES = {"fp32": 1e-3, "float32": 1e-3, "bf16": 0.25, "bfloat16": 0.25}


@dataclass(frozen=True, slots=True)
class Probe:
    """What the trainer computes with one version of the weights."""

    version: int
    token_ids: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]
    """at temperature 1, of each token after the first"""
    tolerance: float
    """largest gap allowed between two log-probs [nats]"""


def tolerance(*precisions: str) -> float:
    """The gap allowed between computers of these precisions: that of the coarsest."""
    return max(_TOLERANCES[p] for p in precisions)


def probe_tokens(vocab_size: int, avoid: Collection[int] = ()) -> tuple[tuple[int, ...], ...]:
    """Two random sequences of token ids, the same for the same arguments; `avoid` names special tokens to leave out."""
    allowed = sorted(set(range(vocab_size)) - set(avoid))
    draw = random.Random(0)
    return tuple(tuple(draw.choices(allowed, k=12)) for _ in range(2))


def tokens_of(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], ...]:
    """The probe's sequences for models with this tokenizer."""
    return probe_tokens(len(tokenizer), avoid=tokenizer.all_special_ids)


def check(probe: Probe, engine_logprobs: Sequence[Sequence[float]]) -> float:
    """The largest gap [nats] between the probe and what an engine computed.

    Raises:
        WeightError: it is beyond the tolerance, or not a number, or the shapes differ.
    """
    if [len(row) for row in engine_logprobs] != [len(row) for row in probe.logprobs]:
        raise WeightError(f"the probe of version {probe.version} came back in another shape; score all its sequences")
    gaps = [abs(a - b) for x, y in zip(probe.logprobs, engine_logprobs, strict=True) for a, b in zip(x, y, strict=True)]
    gap = max((g if g == g else float("inf") for g in gaps), default=0.0)
    if gap > probe.tolerance:
        raise WeightError(
            f"the engine computes something else than the trainer with version {probe.version}: log-probs differ by up "
            f"to {gap:.3g}, allowed {probe.tolerance:g}; the weights are stale, mixed or cast, so discard this engine"
        )
    return gap


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
