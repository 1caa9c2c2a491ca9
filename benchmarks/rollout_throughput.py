"""Tokens/s through the generator pool against bare vLLM: the same prompts, seeds and number of engines, in turns."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import ray

from benchmarks.record import record
from rayalign.cluster.pool_start import start_pool
from rayalign.cluster.session import Session
from rayalign.config import ClusterConfig, RolloutConfig, SamplingConfig
from rayalign.coordinator.groups import GroupAssembler, GroupOrder
from rayalign.coordinator.rendering import Renderer
from rayalign.data.paddock import prompts
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.models.load import make_preset
from rayalign.rollout.base import Request, candidate_seed
from rayalign.rollout.vllm import environment
from rayalign.storage.events import EventLog

ENGINES, GROUPS, CANDIDATES, PAIRS = 2, 64, 4, 5
ROLLOUT = RolloutConfig(engines=ENGINES, context=128)
SAMPLING = SamplingConfig(max_tokens=48)


class Bare:
    """vLLM as its users call it: one blocking `generate`."""

    def __init__(self, model: str) -> None:
        from vllm import LLM

        self._llm = LLM(
            model,
            dtype="float32",
            enforce_eager=True,
            skip_tokenizer_init=True,
            max_model_len=ROLLOUT.context,
            max_num_seqs=ROLLOUT.max_sequences,
            kv_cache_memory_bytes=ROLLOUT.cache_bytes,
            disable_log_stats=True,
        )

    def generate(self, requests: Sequence[Request]) -> int:
        """All candidates; the number of tokens drawn."""
        from vllm import SamplingParams

        inputs, params = [], []
        for request in requests:
            inputs.append({"prompt_token_ids": list(request.prompt_ids)})
            params.append(
                SamplingParams(
                    max_tokens=SAMPLING.max_tokens,
                    seed=request.seed,
                    logprobs=0,
                    stop_token_ids=list(request.stop_ids),
                    detokenize=False,
                )
            )
        outputs = self._llm.generate(inputs, params, use_tqdm=False)
        return sum(len(out.outputs[0].token_ids) for out in outputs)


async def through_pool(assembler: GroupAssembler, orders: Sequence[GroupOrder]) -> float:
    """Tokens/s of the pool, with its groups assembled and decoded."""
    start = time.perf_counter()
    results = await assembler.generate(orders)
    seconds = time.perf_counter() - start
    tokens = 0
    for result in results:
        assert result.group is not None
        tokens += sum(len(trajectory.logprobs) for trajectory in result.group.trajectories)
    return tokens / seconds


def through_bare(engines: Sequence[ray.actor.ActorHandle], requests: Sequence[Request]) -> float:
    """Tokens/s of the bare engines, half of the candidates each."""
    start = time.perf_counter()
    shares = [requests[rank::ENGINES] for rank in range(ENGINES)]
    tokens = ray.get([e.generate.remote(s) for e, s in zip(engines, shares, strict=True)], timeout=600)
    return sum(tokens) / (time.perf_counter() - start)


async def measure(model: str, scratch: Path) -> list[dict[str, float]]:
    """Alternate the two."""
    events = EventLog(scratch / "events.jsonl")
    renderer = Renderer(model, ROLLOUT.context, SAMPLING)
    orders, requests = list[GroupOrder](), list[Request]()
    for number, prompt in enumerate(prompts(0, "train", GROUPS)):
        seeds = tuple(candidate_seed(0, 0, number, prompt.id, index) for index in range(CANDIDATES))
        orders.append(GroupOrder(str(number), prompt, seeds))
        requests += renderer.requests(str(number), prompt, seeds)
    pool = await start_pool("vllm", model, ROLLOUT, ClusterConfig(), events)
    options = {"num_cpus": 0.5, "runtime_env": {"env_vars": environment(ROLLOUT)}}
    bare = [ray.remote(Bare).options(**options).remote(model) for _ in range(ENGINES)]
    assembler = GroupAssembler(pool, renderer, timeout=600.0)
    rows = []
    for _ in range(PAIRS + 1):
        rows.append({"bare": through_bare(bare, requests), "pool": await through_pool(assembler, orders)})
    pool.stop()
    return rows[1:]  # the first calls warm both up


def main() -> None:
    """Measure on the preset `nano` with random weights."""
    with tempfile.TemporaryDirectory() as scratch, Session(ClusterConfig()):
        make_preset("nano", build_tokenizer(), 0, f"{scratch}/model")
        rows = asyncio.run(measure(f"{scratch}/model", Path(scratch)))
    ratios = [row["pool"] / row["bare"] for row in rows]
    record(
        "rollout_throughput",
        {"limit_ratio": 0.85, "median_ratio": statistics.median(ratios), "tokens_per_second": rows},
    )


if __name__ == "__main__":
    main()
