"""One rank of a world of two: trains with each ZeRO stage and writes what rank 0 ended with."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoTokenizer

from tests.models.conftest import make_batch, make_learner, settings, train, weights


def main(folder: str, out: Path) -> None:
    torch.set_num_threads(1)
    results = {}
    for stage in (0, 2, 3):
        # One unit of the first minibatch fills a micro-batch, so that the ranks differ in how many they have.
        learner = make_learner(folder, settings(zero_stage=stage, micro_tokens=30))
        mine = make_batch().rows(torch.arange(12)[: 9 if dist.get_rank() else 2])
        before = learner.evaluate(mine).logprobs_BT
        metrics = train(learner, passes=2)
        results[stage] = {"weights": weights(learner), "metrics": metrics, "logprobs": before}
        learner.save(out / f"model{stage}", AutoTokenizer.from_pretrained(folder))
        learner.save_state(out / f"state{stage}")
        after = weights(learner)
        train(learner)
        learner.load_state(out / f"state{stage}")
        results[stage]["resumed"] = all(torch.equal(x, after[name]) for name, x in weights(learner).items())
        learner.close()
    torch.save(results, out / f"rank{dist.get_rank()}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
