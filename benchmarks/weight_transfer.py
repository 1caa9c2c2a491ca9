"""Seconds of a weight transfer with its proof, from a policy actor to one engine, through the object store."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.models import make
from benchmarks.record import record
from rayalign.actors.learner import LearnerSpec
from rayalign.cluster.channel import WeightChannel
from rayalign.cluster.pool_start import start_pool
from rayalign.cluster.roles import start_roles
from rayalign.cluster.session import Session
from rayalign.config import ClusterConfig, LearnerConfig, RoleConfig, RolloutConfig
from rayalign.data.chat import load_tokenizer
from rayalign.storage.events import EventLog
from rayalign.weights import probe
from rayalign.weights.paths.base import PathConfig

REPEATS = 9
CLUSTER = ClusterConfig(object_store=4 << 30)


async def measure(model: str, events: EventLog) -> list[dict[str, float]]:
    """Transfers one after the other; the first ones touch fresh memory."""
    pool = await start_pool("vllm", model, RolloutConfig(engines=1), CLUSTER, events)
    spec = LearnerSpec(model, LearnerConfig(), {"name": "sft"}, 1.0, 1, 0, 600.0)
    roles = await start_roles({"policy": spec}, {"policy": RoleConfig(threads=2)}, CLUSTER, events)
    channel = WeightChannel(
        probe.tokens_of(load_tokenizer(model)),
        bound=probe.Bound("fp32"),
        path=PathConfig(name="store", timeout=120.0),
        events=events,
    )
    rows = []
    for version in range(REPEATS):
        done = await channel.transfer(roles["policy"], pool, version)
        rows.append({"seconds": done.seconds, "bytes": done.bytes, "probe_gap": done.gap})
    roles.stop()
    pool.stop()
    return rows


def main() -> None:
    """Measure both sizes."""
    figures: dict[str, Any] = {"limits_seconds": {"50M": 0.35, "300M": 1.5}}
    with tempfile.TemporaryDirectory() as scratch, Session(CLUSTER):
        for name in ("50M", "300M"):
            folder = Path(scratch) / name
            parameters = make(name, folder)
            rows = asyncio.run(measure(str(folder), EventLog(Path(scratch) / "events.jsonl")))
            figures[name] = {
                "parameters": parameters,
                "median_seconds": statistics.median(row["seconds"] for row in rows[2:]),
                "transfers": rows,
            }
    record("weight_transfer", figures)


if __name__ == "__main__":
    main()
