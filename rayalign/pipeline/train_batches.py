"""The arithmetic of a training: samples of a batch, and optimizer steps."""

from __future__ import annotations

from typing import Any

from rayalign.algorithms.base import Algorithm
from rayalign.config import TrainStage


def steps(stage: TrainStage, algorithm: Algorithm[Any], rows: int | None) -> int | None:
    """Optimizer steps of the whole stage, at most; None where its rows decide and are not known."""
    if stage.online:
        samples = stage.prompts * stage.candidates_per_prompt
        return stage.iterations * algorithm.passes * (samples // stage.learner.minibatch)
    if stage.steps or rows is None:
        return stage.steps
    samples_per_row = 2 if algorithm.unit == "pair" else 1
    samples = int(rows * (1 - stage.holdout)) * samples_per_row
    return stage.epochs * (samples // stage.learner.minibatch)


def text(stage: TrainStage, algorithm: Algorithm[Any], *, stores_reference: bool) -> str:
    """The same for people, before any row is read."""
    minibatch = stage.learner.minibatch
    if not stage.online:
        length = f"{stage.steps} steps" if stage.steps else f"at most {stage.epochs} epochs"
        before = "the reference's log-probs of all rows first; " if stores_reference else ""
        return f"{before}{minibatch} samples a step, {length}"
    count, passes = stage.candidates_per_prompt, algorithm.passes
    samples = stage.prompts * count
    steps_of_pass = samples // minibatch
    return (
        f"{stage.prompts} prompts x {count} candidates = {samples} samples; "
        f"/ minibatch {minibatch} = {steps_of_pass} steps; x {passes} passes = {steps_of_pass * passes} steps an "
        f"iteration; x {stage.iterations} iterations = {steps_of_pass * passes * stage.iterations} steps"
    )
