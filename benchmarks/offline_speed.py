"""Tokens/s of DPO and SimPO offline: our loop of one rank against a bare torch loop, same model, pairs and batch.

The bare loop is what one writes without a system: it pads a minibatch, runs the model, gathers the answers' log-probs,
and steps the same AdamW. Both sides read the reference's sums from memory or disk, computed before. Turns
alternate, so that what else the machine does falls on both; the ratio is that of the medians.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.models import make
from benchmarks.record import record
from rayalign.algorithms.base import load
from rayalign.algorithms.preference import dpo_loss, simpo_loss
from rayalign.config import LearnerConfig, TrackingConfig, TrainStage
from rayalign.coordinator.offline_data import OfflineData, OfflineSpec
from rayalign.coordinator.progress import Heartbeat
from rayalign.data.collate import EncodedRow, collate_examples
from rayalign.data.rows import write_rows
from rayalign.models.batching import pass_over
from rayalign.models.learner import Learner
from rayalign.models.process_group import meet
from rayalign.types import Rollouts

PAIRS, MINIBATCH, TURNS, STEPS = 128, 16, 5, 2
LONGEST, PROMPT = 128, 24
VOCABULARY = 8192


def make_rows() -> list[EncodedRow]:
    """Pairs whose answers have 24 to 104 tokens."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for pair in range(PAIRS):
        for _ in range(2):
            length = int(torch.randint(PROMPT + 24, LONGEST + 1, (1,), generator=generator))
            ids = torch.randint(5, VOCABULARY, (length,), generator=generator).tolist()
            mask = [False] * PROMPT + [True] * (length - PROMPT)
            rows.append(EncodedRow(tuple(ids), mask, pair, prompt=str(pair), preference=1.0))
    return rows


class Bare:
    """The loop that one writes by hand."""

    def __init__(self, model: str, algorithm: str, rows: list[EncodedRow], config: LearnerConfig) -> None:
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True
        )
        self._algorithm, self._rows, self._clip = algorithm, rows, config.clip_norm
        with torch.no_grad():
            parts = [self._sums(collate_examples(rows[i : i + MINIBATCH], 0)) for i in range(0, len(rows), MINIBATCH)]
        self._reference_B = torch.cat([sums_B for sums_B, _ in parts])

    def step(self, rows_B: Tensor) -> None:
        """One optimizer step."""
        sums_B, lengths_B = self._sums(collate_examples([self._rows[i] for i in rows_B.tolist()], 0))
        chosen, rejected = sums_B[0::2], sums_B[1::2]
        if self._algorithm == "dpo":
            reference_B = self._reference_B[rows_B]
            loss = dpo_loss(chosen, rejected, reference_B[0::2], reference_B[1::2], beta=0.1).mean()
        else:
            loss = simpo_loss(chosen, rejected, lengths_B[0::2], lengths_B[1::2], beta=2.0, gamma=1.0).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _sums(self, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        ids_BT, mask_BT = rollouts.input_ids_BT, rollouts.policy_mask_BT[:, 1:].bool()
        logits_BTV = self._model(input_ids=ids_BT, attention_mask=rollouts.attention_mask_BT).logits[:, :-1]
        logprobs_BT = logits_BTV.log_softmax(-1).gather(2, ids_BT[:, 1:, None])[..., 0]
        return (logprobs_BT * mask_BT).sum(1), mask_BT.sum(1)


class Ours:
    """The loop of one rank, without what it writes."""

    def __init__(self, spec: OfflineSpec, heartbeat: Heartbeat) -> None:
        self._data = OfflineData(spec, load(spec.stage.algorithm), meet(), heartbeat)
        self._learner = Learner(spec.model, "causal", spec.stage.learner, role="policy", total_steps=10**6, seed=0)

    def step(self, rows_B: Tensor) -> None:
        """One optimizer step."""
        minibatch = self._data.minibatch(self._data.training, rows_B, self._learner)
        self._learner.step(minibatch, self._data.algorithm)

    def close(self) -> None:
        """Release the engine."""
        self._learner.close()


def compare(algorithm: str, model: str, folder: Path) -> dict[str, Any]:
    """Both loops by turns over the same minibatches."""
    rows = make_rows()
    config = LearnerConfig(minibatch=MINIBATCH, micro_tokens=LONGEST * MINIBATCH)
    stage = TrainStage(kind="train", algorithm={"name": algorithm}, model=model, learner=config)
    reference = model if algorithm == "dpo" else None
    files = (str(folder / algorithm), str(folder / "events.jsonl"))
    spec = OfflineSpec(stage, "policy", model, TrackingConfig(), 0, *files, timeout=600.0, reference=reference)
    write_rows(spec.rows_folder, rows)
    lengths_B = torch.tensor([len(row.token_ids) for row in rows])
    parts = pass_over(lengths_B, torch.arange(len(rows)) // 2, config, 0, 0)[:STEPS]
    tokens = sum(int(lengths_B[part].sum()) for part in parts)
    with Heartbeat(spec.ranks_folder, 0, spec.timeout) as heartbeat:
        sides = {"bare": Bare(model, algorithm, rows, config), "ours": Ours(spec, heartbeat)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(TURNS + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            for part in parts:
                side.step(part.sort().values)
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - start)
    sides["ours"].close()  # type: ignore[union-attr]
    rates = {name: tokens / statistics.median(times) for name, times in seconds.items()}
    return {"tokens_per_second": rates, "ratio": rates["ours"] / rates["bare"], "seconds": seconds}


def main() -> None:
    """Measure both algorithms."""
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        parameters = make("50M", model)
        figures = {name: compare(name, str(model), Path(scratch)) for name in ("dpo", "simpo")}
    batch = {"sequences": MINIBATCH, "longest": LONGEST, "steps_a_turn": STEPS, "turns": TURNS}
    record("offline_speed", {"limit_ratio": 0.9, "parameters": parameters, "batch": batch, **figures})


if __name__ == "__main__":
    main()
