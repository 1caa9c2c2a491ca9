"""DeepSpeed's own configuration of a learner."""

from __future__ import annotations

from typing import Any

from rayalign.config import LearnerConfig

LARGEST_BUCKET = 500_000_000
"""elements that are reduced or gathered at once"""


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
