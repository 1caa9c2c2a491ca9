"""One rank of a world of two: trains with each ZeRO stage and writes the weights it ended with."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoTokenizer

from rayalign.errors import GuardError
from rayalign.models.learner import Learner
from tests.models.conftest import VOCABULARY, WEIGHTED, make_batch, make_learner, settings, train, weights

SETTINGS: dict[str, dict[str, object]] = {
    "stage0": {"zero_stage": 0},
    "stage2": {"zero_stage": 2},
    "stage3": {"zero_stage": 3},
    # With DeepSpeed's thresholds models of this size are never gathered, and one chunk holds all their logits.
    "gathered": {"zero_stage": 3, "zero_live_parameters": 0, "chunk_logits": 3 * VOCABULARY, "ema": 0.5},
    "lora": {"zero_stage": 3, "zero_live_parameters": 0, "lora": {"rank": 4, "alpha": 8}},
    # Half of a unit fills a micro-batch.
    "divided": {"zero_stage": 3, "zero_live_parameters": 0, "micro_tokens": 14},
    "lora2": {"zero_stage": 2, "lora": {"rank": 4, "alpha": 8}, "ema": 0.5},
}


def stopped(learner: Learner) -> str:
    """The error of a step whose loss is not finite on one rank; one unit has the bad number."""
    bad = make_batch()
    bad.tensors["advantages_BT"][0, 5] = torch.nan
    try:
        learner.step(bad, WEIGHTED)
    except GuardError as error:
        return str(error)
    return "nothing stopped the step"


def main(folder: str, out: Path) -> None:
    torch.set_num_threads(1)
    results = {}
    for name, changes in SETTINGS.items():
        # One unit of the first minibatch fills a micro-batch, so that the ranks differ in how many they have.
        learner = make_learner(folder, settings(**{"micro_tokens": 30, **changes}), inspection=out / "inspection")
        mine = make_batch().rows(torch.arange(12)[: 9 if dist.get_rank() else 2])
        before = learner.evaluate(mine).logprobs_BT
        probes = dist.get_rank() == 0 or changes.get("zero_stage") == 3
        probe = learner.score_probe([[4, 5, 6, 7]]) if probes else None
        metrics = train(learner, passes=2)
        results[name] = {"weights": weights(learner), "metrics": metrics, "logprobs": before, "probe": probe}
        if changes.get("lora"):
            results[name]["reference"] = learner.evaluate(mine, adapter=False).logprobs_BT
        learner.save(out / f"model-{name}", AutoTokenizer.from_pretrained(folder))
        learner.save_state(out / f"state-{name}")
        after = weights(learner)
        train(learner)
        learner.load_state(out / f"state-{name}")
        results[name]["resumed"] = all(torch.equal(x, after[key]) for key, x in weights(learner).items())
        results[name] |= {"stopped": stopped(learner), "steps": len(metrics)}
        results[name]["unmoved"] = all(torch.equal(x, after[key]) for key, x in weights(learner).items())
        learner.close()
    torch.save(results, out / f"rank{dist.get_rank()}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
