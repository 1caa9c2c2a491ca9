"""The learning rate over the steps of a training."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim.lr_scheduler import LambdaLR

from rayalign.config import LearnerConfig


def schedule(config: LearnerConfig, total_steps: int) -> Callable[[int], float]:
    """The factor on the learning rate at each optimizer step; linear and cosine end at 0 after `total_steps`."""

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / (config.warmup_steps + 1)
        left = 1.0 - (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
        left = min(1.0, max(0.0, left))
        return {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[config.schedule]

    return factor


def set_steps(scheduler: LambdaLR, steps: int) -> None:
    """Set the learning rates to those after so many optimizer steps."""
    scheduler.last_epoch = steps
    rates = [rate * factor(steps) for rate, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    scheduler._last_lr = rates
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
