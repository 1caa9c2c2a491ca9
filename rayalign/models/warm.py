"""Fills the cache of compiled extensions, so that no run waits for a compiler: `python -m rayalign.models.warm`."""

from __future__ import annotations

import os


def warm() -> None:
    """Start DeepSpeed's communication once, alone: it compiles C++ the first time on a machine."""
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_SIZE": "1"}
    os.environ.update(alone, MASTER_ADDR="127.0.0.1", MASTER_PORT="0", DS_ACCELERATOR="cpu")
    import deepspeed
    import torch.distributed

    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    warm()
