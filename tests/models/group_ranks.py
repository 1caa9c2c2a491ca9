"""One rank of a world of two that share values and rows."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from rayalign.models.process_group import from_first, join_rows, meet

ROWS = ((0, 3), (1,))
"""places that each rank has; nobody has the row 2"""


def main(out: Path) -> None:
    device = meet(timeout=100.0)
    rank = dist.get_rank()
    read: list[int] = []

    def look() -> str:
        read.append(rank)
        return f"of rank {rank}"

    rows_B = torch.tensor(ROWS[rank])
    own = 10.0 * rows_B[:, None] + torch.tensor([1.0, 2.0])
    results = {"first": from_first(look), "read": read, "rows": join_rows(own, rows_B, 4, device)}
    dist.barrier()
    results["waited"] = wait_for_nobody() if rank == 0 else 0.0
    dist.barrier()  # the other rank lives until then
    torch.save(results, out / f"rank{rank}.pt")


def wait_for_nobody() -> float:
    """Seconds until a collective of DeepSpeed's own group fails that the other rank does not take part in."""
    from deepspeed.utils import groups

    meet(timeout=1.0)
    start = time.monotonic()
    try:
        dist.all_reduce(torch.zeros(1), group=groups._clone_world_group())
    except RuntimeError:
        return time.monotonic() - start
    raise AssertionError("nobody took part, and it did not fail")


if __name__ == "__main__":
    main(Path(sys.argv[2]))
