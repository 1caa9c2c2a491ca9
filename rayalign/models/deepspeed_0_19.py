"""What DeepSpeed 0.19 leaves to be mended; each function says when it can go."""

from __future__ import annotations

from datetime import timedelta

from torch.distributed.distributed_c10d import _set_pg_timeout


def skip_shared_memory_operator() -> None:
    """Keep `init_distributed` from compiling an all-reduce for inference, 30 s of C++ that training never calls.

    It can go once DeepSpeed builds that operator only where it is used.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def bound_world_group(limit: timedelta) -> None:
    """Give the group of all ranks that DeepSpeed makes for itself a deadline, in the place of torch's own.

    torch's is half an hour with gloo and ten minutes with NCCL.

    It can go once DeepSpeed passes the deadline of `init_distributed` on to its groups.
    """
    from deepspeed.utils import groups

    _set_pg_timeout(limit, groups._clone_world_group())
