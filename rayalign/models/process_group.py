"""The process group of a model's ranks, in torch and in DeepSpeed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from rayalign.models.deepspeed_0_19 import bound_world_group, skip_shared_memory_operator

T = TypeVar("T")
DEADLINE = 1800.0
"""seconds of a rendezvous and of each collective, where the caller has no deadline"""


def meet(timeout: float = DEADLINE) -> torch.device:
    """Join the ranks that the environment names (none: a world of one); the device of this rank.

    Args:
        timeout: seconds until the other ranks must be there, and until each collective must have ended.
    """
    cuda = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if cuda else "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not cuda:
        skip_shared_memory_operator()
    backend = "nccl" if cuda else "gloo"
    limit = timedelta(seconds=timeout)
    if not dist.is_initialized() and "RANK" not in os.environ:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=limit)
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, timeout=limit)
    bound_world_group(limit)
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")


def highest(count: int, device: torch.device) -> int:
    """The largest of all ranks' counts; every rank calls it."""
    if dist.get_world_size() == 1:
        return count
    counts = torch.tensor(count, device=device)
    dist.all_reduce(counts, op=dist.ReduceOp.MAX)
    return int(counts)


def from_first(read: Callable[[], T]) -> T:
    """What rank 0 reads, on every rank, since one file system may show them different things; every rank calls it."""
    values: list[Any] = [read() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(values, src=0)
    value: T = values[0]
    return value


def join_rows(own: Tensor, rows_B: Tensor, count: int, device: torch.device) -> Tensor:
    """All of `count` rows on every rank, of which this rank has `own`, at `rows_B`; a row that no rank has is 0.

    Args:
        device: what the ranks' collectives work on; the result is on the CPU.
    """
    everyone = own.new_zeros(count, *own.shape[1:])
    everyone[rows_B] = own
    if dist.get_world_size() == 1:
        return everyone
    everyone = everyone.to(device)
    dist.all_reduce(everyone)
    return everyone.cpu()


def leave() -> None:
    """Undo `meet`, so that this process can join other ranks."""
    import deepspeed

    # DeepSpeed has groups of its own, which it releases only together with torch's.
    deepspeed.comm.destroy_process_group()
