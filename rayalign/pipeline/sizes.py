"""Estimates of the memory that one actor of a role needs on its device, by part, from shapes and settings alone."""

from __future__ import annotations

from rayalign.cluster.turns import Part
from rayalign.config import Job, LearnerConfig
from rayalign.models.catalogue import ModelShape
from rayalign.pipeline.kind import shape_in
from rayalign.pipeline.needs import GENERATOR, RoleNeed

BYTES = {"fp32": 4, "bf16": 2, "float32": 4, "bfloat16": 2}
GRADIENT = 4
"""bytes of one gradient"""
ACTIVATIONS = 17
"""numbers kept for the backward pass per token, layer and hidden unit (Korthikanti 2022, eq. 1: 34 bytes in bf16)"""


def role_parts(job: Job, need: RoleNeed, shape: ModelShape) -> dict[Part, int]:
    """The parts of one actor on each of its devices [bytes]."""
    if need.role == GENERATOR:
        weights = shape.parameters * BYTES[job.rollout.dtype] // job.rollout.tensor_parallel
        return {"weights": weights, "cache": job.rollout.cache_bytes}
    if need.trained:
        return learner_parts(shape, need.learner, need.host.actors)
    shapes = [shape, *(shape_in(job, model) for model in need.further_models)]
    parameters = sum(each.parameters for each in shapes if each is not None)
    holders = need.host.actors if need.host.spread else 1
    return {"weights": parameters * BYTES[need.learner.precision] // holders}


def learner_parts(shape: ModelShape, config: LearnerConfig, ranks: int) -> dict[Part, int]:
    """Weights of one rank; its gradients, Adam and activations [bytes].

    Adam's two moments and, beside bf16 weights, the fp32 master copy are divided over the ranks from ZeRO stage 1 on,
    gradients, added up in fp32, from 2, weights from 3 (Rajbhandari 2020, figure 1). An adapter alone has gradients
    and moments.
    """
    width = BYTES[config.precision]
    optimizer = 8 if config.precision == "fp32" else 12
    weights = trained = shape.parameters
    if config.lora is not None:
        trained = shape.adapter_parameters(config.lora.rank, config.lora.targets)
        weights += trained

    def share(size: int, first_divided: int) -> int:
        return size // (ranks if config.zero_stage >= first_divided else 1)

    per_unit = 1 if config.gradient_checkpointing else ACTIVATIONS
    activations = config.micro_tokens * shape.hidden * shape.layers * per_unit * width
    states = share(optimizer * trained, 1) + share(GRADIENT * trained, 2)
    return {"weights": share(width * weights, 3), "training": states + activations}
