"""How the prompts of an online stage follow each other."""

from __future__ import annotations

from functools import partial

from rayalign.config import TrainStage
from rayalign.coordinator.order import PriorityOrder, PromptOrder
from rayalign.coordinator.window import Window
from rayalign.evolve.creator import priority_weights
from rayalign.pipeline.context import RunContext


def prompt_order(context: RunContext, name: str, stage: TrainStage, seed: int) -> PromptOrder:
    """All prompts alike, or those first that teach most."""
    examples = context.inputs.fitting(name, stage.model)
    if stage.priority is None:
        return PromptOrder(examples, seed)
    return PriorityOrder(
        examples,
        seed,
        prompts=Window.of(stage).width,
        iterations=stage.iterations,
        max_staleness=stage.max_staleness,
        weigh=partial(priority_weights, stage.priority),
    )
