"""A bigram model as TRL's trainers call it, and trainers without data and processes."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

VOCABULARY = 7


def table(seed: int) -> Tensor:
    return torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logprobs(table_VV: Tensor, ids_BT: Tensor) -> Tensor:
    """Log-prob of each token given the one before it; 0 for the first."""
    following = table_VV.log_softmax(1)[ids_BT[:, :-1], ids_BT[:, 1:]]
    return torch.cat([torch.zeros_like(following[:, :1]), following], dim=1)


class Bigram:
    """A model as TRL's trainers call it; the table of logits is all that it has."""

    training = True
    is_gradient_checkpointing = False

    def __init__(self, table_VV: Tensor) -> None:
        self.table_VV = table_VV

    def __call__(self, input_ids: Tensor, labels: Tensor | None = None, **_: Any) -> SimpleNamespace:
        if labels is None:
            return SimpleNamespace(logits=self.table_VV[input_ids])
        zeros = torch.zeros_like(labels[:, 1:], dtype=torch.float64)
        trained_BT = labels[:, 1:] != -100
        read = logprobs(self.table_VV, input_ids)[:, 1:].where(trained_BT, 0.0)
        readings = {"log_probs": read, "entropy": zeros, "mean_logits": zeros, "is_top1": zeros.bool()}
        return SimpleNamespace(**readings, label_mask=trained_BT)

    def train(self) -> None:
        """Nothing changes."""


def trainer(kind: type, **settings: Any) -> Any:
    """A trainer without data and processes, which has what its loss reads."""
    stub = object.__new__(kind)
    identity = {"gather": lambda x: x, "gather_for_metrics": lambda x: x, "reduce": lambda x, reduction: x}
    processes = {"num_processes": 1, "process_index": 0, "parallelism_config": None}
    vars(stub).update(
        accelerator=SimpleNamespace(device=torch.device("cpu"), **identity, **processes),
        model=Bigram(table(0)),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        aux_loss_enabled=False,
        **settings,
    )
    return stub


def assert_equal(ours: Tensor, theirs: Tensor, leaf: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0, check_dtype=False)
    gradients = [torch.autograd.grad(loss, leaf)[0] for loss in (ours, theirs)]
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(*gradients, atol=tolerance, rtol=0)
