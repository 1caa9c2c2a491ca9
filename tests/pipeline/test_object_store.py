from __future__ import annotations

from pathlib import Path

from rayalign.config import load_job
from rayalign.pipeline.machine import Machine
from rayalign.pipeline.object_store import BASE_BYTES, object_store_bytes
from rayalign.pipeline.plan import plan

JOBS = Path(__file__).parents[2] / "jobs"
LARGE = Machine(cpus=64.0, gpus=8, memory=1 << 40, shared_memory=1 << 39)


def needed(path: str, machine: Machine, *overrides: str) -> int:
    job = load_job(JOBS / path, overrides).job
    return object_store_bytes(job, plan(job, machine))


def test_a_small_model_needs_little_beside_the_batches() -> None:
    assert BASE_BYTES < needed("quickstart.yaml", LARGE) < BASE_BYTES + (64 << 20)


def test_a_7b_model_needs_room_for_four_buckets_of_its_largest_tensor() -> None:
    """Its embedding is one tensor of 152,064 x 3,584 numbers; with 512 MiB each publication went to disk."""
    embedding = 4 * 152_064 * 3_584
    assert needed("hh_rlhf.yaml", LARGE) == BASE_BYTES + 4 * embedding


def test_the_store_stays_within_shared_memory_and_what_the_job_names_holds() -> None:
    small = Machine(cpus=8.0, gpus=8, memory=64 << 30, shared_memory=4 << 30)
    assert needed("hh_rlhf.yaml", small) == int(0.9 * (4 << 30))
    assert needed("hh_rlhf.yaml", LARGE, "cluster.object_store=12345678") == 12345678
