"""One rank of two that hold a reference and a reward model in parts, as their actors do, without Ray."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rayalign.actors.hosted import FrozenSpec, Rendezvous
from rayalign.actors.reference import ReferenceActor
from rayalign.actors.reward import RewardActor
from rayalign.config import LearnerConfig, RewardSource
from rayalign.scoring.sources import RewardSpec
from rayalign.types import Group, Message, Prompt, Segment, Trajectory

CONFIG = LearnerConfig(zero_live_parameters=0)
DEADLINE = 77.0
"""seconds of the job's calls"""


def written(number: int) -> Group:
    """An answer of its own length."""
    ids = tuple(5 + (number + place) % 50 for place in range(6 + number))
    spans = (Segment(0, "template"), Segment(2, "policy", 0))
    answer = Trajectory(f"g{number}", 0, ids, spans, (-1.0,) * (len(ids) - 2), "stop", "a")
    return Group(f"g{number}", Prompt("p", (Message("user", "q"),)), 0, (answer,))


GROUPS = [written(number) for number in range(5)]


def reference(model: str) -> ReferenceActor:
    return ReferenceActor(FrozenSpec(model, CONFIG, 1.0, model, DEADLINE))


def reward(model: str) -> RewardActor:
    return RewardActor(RewardSpec((RewardSource(source=model),), CONFIG, model, DEADLINE))


def deadline() -> float:
    """Seconds that each collective of this process may take."""
    group: Any = dist.group.WORLD
    return float(group._get_backend(torch.device("cpu")).options._timeout.total_seconds())


def main(model: str, out: Path) -> None:
    rank, port = int(os.environ["RANK"]), int(os.environ["MASTER_PORT"])
    meeting = Rendezvous(rank, 2, "127.0.0.1", port, spread=True)
    scorer = reward(model)
    scorer.setup(meeting)
    results = {"deadline": deadline(), "scores": scorer.score(GROUPS)}
    scorer.close()
    reader = reference(model)
    reader.setup(meeting)
    results["read"] = read = []
    reader._model._head.register_forward_pre_hook(lambda _, inputs: read.append(len(inputs[0])))
    results["means"] = reader.mean_logprobs(GROUPS, 0)
    reader.close()
    torch.save(results, out / f"rank{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
