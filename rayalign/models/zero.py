"""DeepSpeed's own configuration of a learner, and the engine around a model."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from rayalign.config import LearnerConfig
from rayalign.models.schedule import schedule

LARGEST_BUCKET = 500_000_000
"""elements that are reduced or gathered at once"""


def lies_in_parts(config: LearnerConfig, world: int) -> bool:
    """Whether no rank of a learner holds its model whole; a frozen model in the same ranks then lies so too."""
    return config.zero_stage == 3 and world > 1


def engine_config(config: LearnerConfig, stage: int, parameters: int = LARGEST_BUCKET) -> dict[str, Any]:
    """DeepSpeed's settings for a learner at a ZeRO stage with so many trained parameters."""
    bucket = min(parameters, LARGEST_BUCKET)
    zero: dict[str, Any] = {"stage": stage, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if config.zero_live_parameters is not None:
        zero["stage3_param_persistence_threshold"] = config.zero_live_parameters
        zero["stage3_max_live_parameters"] = config.zero_live_parameters
    if config.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        # Stage 0 is clipped by the Learner, which needs the norm before the step.
        "gradient_clipping": config.clip_norm if stage else 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's own is fused on a CPU too
        "zero_optimization": zero,
        "bf16": {"enabled": config.precision == "bf16", "check_grad_overflow": True},
        "data_types": {"grad_accum_dtype": "fp32"},
    }


def start_engine(model: nn.Module, config: LearnerConfig, stage: int, total_steps: int) -> Any:
    """DeepSpeed's engine around a model, with AdamW and the schedule of so many optimizer steps."""
    import deepspeed

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=lambda basic: LambdaLR(basic, schedule(config, total_steps)),
        config=engine_config(config, stage, sum(map(_size, parameters))),
        dist_init_required=False,
    )
    if dist.get_world_size() == 1 and not stage:
        # An all-reduce over one rank took a tenth of a small model's step.
        engine.enable_backward_allreduce = False
    return engine


def start_reading_engine(model: nn.Module, settings: dict[str, Any]) -> Any:
    """DeepSpeed's engine around a model that is not trained, by settings of `engine_config`."""
    import deepspeed

    engine, *_ = deepspeed.initialize(model=model, config=settings, dist_init_required=False)
    engine.eval()
    return engine


def _size(parameter: Tensor) -> int:
    """Elements of the whole parameter, which may lie in parts."""
    size: int = getattr(parameter, "ds_numel", parameter.numel())
    return size
