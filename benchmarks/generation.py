"""One batch written by Hugging Face's `generate` and by both engines, by turns: python -m benchmarks.generation.

The batch is that of engine_choice.py. `generate` has all rows at once, padded on the left, and all cores; a row that
has its tokens is padded until the last one has. It computes no log-probs; the engines do, and each has one core.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

from benchmarks.engine_choice import CANDIDATES, ENGINES, MODELS, ROLLOUT, batch, seconds_of
from benchmarks.record import record
from rayalign.cluster.pool import GeneratorPool
from rayalign.cluster.pool_start import start_pool
from rayalign.cluster.session import Session
from rayalign.config import ClusterConfig
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.models.load import make_preset
from rayalign.rollout.base import Request
from rayalign.storage.events import EventLog

LIMIT = 1.0
"""of an engine's time over that of `generate`"""


class OwnLengths(StoppingCriteria):
    """Each row ends after its own number of new tokens."""

    def __init__(self, most_B: Tensor, prompt: int) -> None:
        self._most_B, self._prompt = most_B, prompt

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return input_ids.shape[1] - self._prompt >= self._most_B


class HuggingFace:
    """`generate` as its users call it, with all cores."""

    def __init__(self, folder: str) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self._model.generation_config.eos_token_id = None  # the requests end by their limits alone

    def seconds(self, requests: Sequence[Request]) -> float:
        """Seconds until all rows have their tokens."""
        longest = max(len(request.prompt_ids) for request in requests)
        ids_BT = torch.zeros(len(requests), longest, dtype=torch.long)
        mask_BT = torch.zeros_like(ids_BT)
        for row, request in enumerate(requests):
            length = len(request.prompt_ids)
            ids_BT[row, longest - length :] = torch.tensor(request.prompt_ids)
            mask_BT[row, longest - length :] = 1
        most_B = torch.tensor([request.sampling.max_tokens for request in requests])
        start = time.perf_counter()
        with torch.inference_mode():
            self._model.generate(
                ids_BT,
                attention_mask=mask_BT,
                do_sample=True,
                top_k=0,
                pad_token_id=0,
                max_new_tokens=int(most_B.max()),
                stopping_criteria=StoppingCriteriaList([OwnLengths(most_B, longest)]),
            )
        return time.perf_counter() - start


async def measure(folder: str, scratch: Path, requests: Sequence[Request], turns: int) -> dict[str, list[float]]:
    """Seconds of each turn; the first turn warms all up and does not count."""
    events = EventLog(scratch / "events.jsonl")
    pools: dict[str, GeneratorPool] = {}
    for engine in ENGINES:
        pools[engine] = await start_pool(engine, folder, ROLLOUT, ClusterConfig(), events)
    theirs = HuggingFace(folder)
    seconds: dict[str, list[float]] = {"hf": [], **{engine: [] for engine in ENGINES}}
    try:
        for _ in range(turns + 1):
            seconds["hf"].append(theirs.seconds(requests))
            for engine, pool in pools.items():
                seconds[engine].append(await seconds_of(pool, list(requests)))
    finally:
        for pool in pools.values():
            pool.stop()
    return {name: own[1:] for name, own in seconds.items()}


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="presets, separated by commas")
    parser.add_argument("--prompts", type=int, help="fewer prompts, for a rehearsal that is not recorded")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    requests = batch()[: options.prompts * CANDIDATES if options.prompts else None]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch, Session(ClusterConfig()):
        for name in options.models.split(","):
            folder = f"{scratch}/{name}"
            make_preset(name, build_tokenizer(), 0, folder)
            seconds = asyncio.run(measure(folder, Path(scratch), requests, options.turns))
            medians = {engine: statistics.median(own) for engine, own in seconds.items()}
            ratios = {f"{engine}_over_hf": medians[engine] / medians["hf"] for engine in ENGINES}
            rows.append({"model": name, "seconds": seconds, **ratios})
    figures = {"limit_ratio": LIMIT, "sequences": len(requests), "turns": options.turns, "rows": rows}
    if options.prompts:
        print(figures)
    else:
        record("generation", figures)


if __name__ == "__main__":
    main()
