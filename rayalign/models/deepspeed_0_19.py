"""What DeepSpeed 0.19 does on a CPU and need not; remove this once it builds that operator only where it is used."""

from __future__ import annotations


def skip_shared_memory_operator() -> None:
    """Keep `init_distributed` from compiling an all-reduce for inference, 30 s of C++ that training never calls."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
