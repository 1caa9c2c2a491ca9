"""The work of one iteration with nothing around it: engine, scorer and learner in one process with one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple


class Work(NamedTuple):
    """Core-seconds of one iteration."""

    generate: float
    score: float
    update: float
    tokens: int
    """that the engine wrote"""


def measure(model: str, reward: str, journal: str, learner: Mapping[str, Any], repeats: int) -> Work:
    """The work on the last groups that a stage trained on.

    Args:
        learner: settings of the policy's learner, and of the scorer.
        repeats: turns of which the median counts.
    """
    import torch

    from rayalign.algorithms.base import load
    from rayalign.config import LearnerConfig
    from rayalign.coordinator.recovery import consumed_iterations
    from rayalign.data.collate import collate_trajectories
    from rayalign.models.learner import Learner
    from rayalign.scoring.reward_model import RewardModelScorer
    from rayalign.storage.journal import Journal

    torch.set_num_threads(1)
    with closing(Journal(Path(journal))) as entries:
        *_, (iteration, groups) = consumed_iterations(entries, None)
    config = LearnerConfig(**learner)
    scorer = RewardModelScorer(reward, config, model)
    algorithm = load({"name": "grpo", "kl_coefficient": 0.0})
    policy = Learner(model, "causal", config, role="policy", total_steps=10**6, seed=0)
    rollouts = collate_trajectories(groups, pad_id=0, version=iteration)
    rollouts.logprobs_BT = rollouts.behaviour_logprobs_BT
    batch = algorithm.prepare(rollouts)
    generate, tokens = _generate(model, groups, repeats)
    score = _seconds(lambda: scorer.score(groups), repeats)
    update = _seconds(lambda: policy.update(batch, algorithm, pass_index=0, seed=0), repeats)
    policy.close()
    return Work(generate, score, update, tokens)


def _generate(model: str, groups: Sequence[Any], repeats: int) -> tuple[float, int]:
    """Seconds and tokens of an engine that writes answers to the prompts of these groups."""
    from rayalign.config import RolloutConfig, SamplingConfig
    from rayalign.data.chat import load_tokenizer, stop_ids
    from rayalign.rollout import build
    from rayalign.rollout.base import Request

    engine = build("local", model, RolloutConfig(engine="local", context=96))
    stops, requests = stop_ids(load_tokenizer(model)), list[Request]()
    for group in groups:
        for trajectory in group.trajectories:
            prompt = trajectory.token_ids[: trajectory.segments[1].start]
            key = f"{group.id}/{trajectory.index}"
            requests.append(Request(key, prompt, len(requests), SamplingConfig(), stops))
    written: list[int] = []

    def write() -> None:
        for request in requests:
            engine.submit(request)
        written.clear()
        while engine.pending:
            written.extend(len(answer.tokens) for answer in engine.step())

    return _seconds(write, repeats), sum(written)


def _seconds(work: Callable[[], object], repeats: int) -> float:
    """The median of some turns, after a first one."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
