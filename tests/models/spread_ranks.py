"""One rank of a world of two that reads frozen models which lie in parts on both."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from rayalign.config import LearnerConfig
from rayalign.models.heads import HeadKind
from rayalign.models.spread import SharedModel, SpreadModel
from tests.models.conftest import VOCABULARY, make_batch

HEADS: tuple[HeadKind, ...] = ("causal", "scalar")
CONFIG = LearnerConfig(micro_tokens=30, zero_live_parameters=0, chunk_logits=3 * VOCABULARY)
"""micro-batches of about two rows; models of this size would else never be gathered"""
OWN = (range(9), range(0))
"""rows that each rank reads by itself"""


def main(folder: str, out: Path) -> None:
    torch.set_num_threads(1)
    results = {}
    for head in HEADS:
        spread = SpreadModel(folder, head, CONFIG, temperature=0.8)
        model = spread if head == "causal" else SharedModel(spread)
        rank = dist.get_rank()
        held = sum(parameter.numel() for parameter in spread._head.parameters())
        parts = sum(parameter.ds_tensor.numel() for parameter in spread._head.parameters())
        rows = torch.tensor(list(OWN[rank]), dtype=torch.long)
        batch = make_batch() if head == "scalar" else make_batch().rows(rows)
        before = model.evaluate(batch)
        model.offload()
        model.reload()
        results[head] = {"before": before, "after": model.evaluate(batch), "held": held, "parts": parts}
        model.close()
        results[head]["kept"] = sum(p.ds_tensor.untyped_storage().nbytes() for p in spread._head.parameters())
    shared = SharedModel(SpreadModel(folder, "causal", CONFIG))
    results["shared"] = {"logprobs": shared.evaluate(make_batch()).logprobs_BT, "longest": shared.longest}
    torch.save(results, out / f"rank{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
