"""Seconds of a weight transfer with its proof, from a policy actor to one engine, by path and by size of the model.

The paths are those between processes of a CPU machine: the object store, and files. The limits are the store's.
"""

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
from rayalign.weights.paths.base import PathConfig, PathName

REPEATS = 9
WARM = 2
"""transfers that touch fresh memory, and count in no median"""
PATHS: tuple[PathName, ...] = ("store", "files")
CLUSTER = ClusterConfig(object_store=4 << 30)


async def measure(model: str, path: PathName, folder: Path) -> list[dict[str, float]]:
    """Transfers one after the other.

    Args:
        folder: of the event log, and of the files.
    """
    events = EventLog(folder / "events.jsonl")
    pool = await start_pool("vllm", model, RolloutConfig(engines=1), CLUSTER, events)
    spec = LearnerSpec(model, LearnerConfig(), {"name": "sft"}, 1.0, 1, 0, 600.0)
    roles = await start_roles({"policy": spec}, {"policy": RoleConfig(threads=2)}, CLUSTER, events)
    channel = WeightChannel(
        probe.tokens_of(load_tokenizer(model)),
        bound=probe.Bound("fp32"),
        path=PathConfig(name=path, timeout=120.0, folder=str(folder)),
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
    """Measure both sizes by both paths."""
    figures: dict[str, Any] = {"limits_seconds": {"50M": 0.35, "300M": 1.5}}
    with tempfile.TemporaryDirectory() as scratch, Session(CLUSTER):
        for name in ("50M", "300M"):
            folder = Path(scratch) / name
            parameters = make(name, folder)
            figures[name] = {"parameters": parameters}
            for path in PATHS:
                rows = asyncio.run(measure(str(folder), path, Path(scratch)))
                seconds = statistics.median(row["seconds"] for row in rows[WARM:])
                figures[name][path] = {"median_seconds": seconds, "transfers": rows}
    record("weight_transfer", figures)


if __name__ == "__main__":
    main()
