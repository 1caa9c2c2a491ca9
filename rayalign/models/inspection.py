"""What is left of an optimizer step whose loss or gradient is not finite: its minibatch as a file, and an error."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from rayalign.errors import GuardError
from rayalign.models.objective import Objective
from rayalign.types import Role

FOLDER = "inspection"
"""inside the stage's own"""


def minibatch_file(folder: Path, role: Role, step: int) -> Path:
    """Where the minibatch of a role's step lies."""
    return folder / f"{role}-step-{step:06d}.safetensors"


def save_minibatch(file: Path, objectives: Sequence[Objective]) -> None:
    """Write all that the losses of a step read: token ids, masks, scores, ...; a second objective's under its area.

    `unit_B` says which rows belong together. The file's metadata has the settings of each algorithm.
    """
    tensors: dict[str, Tensor] = {}
    settings: dict[str, str] = {}
    for objective in objectives:
        prefix = f"{objective.area}/" if objective.area else ""
        for name, tensor in {**objective.batch.tensors, "unit_B": objective.batch.unit_B}.items():
            tensors[prefix + name] = tensor.detach().cpu().clone().contiguous()
        settings[f"{prefix}algorithm"] = json.dumps(objective.algorithm.config.model_dump(mode="json"))
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, metadata=settings)


def not_finite(role: Role, step: int, file: Path | None) -> GuardError:
    """The error of such a step."""
    place = f"its minibatch is in {file}" if file else "its minibatch was not saved"
    return GuardError(
        f"{role} step {step}: the loss or its gradient is not finite, and no step was taken; {place}: "
        "look for values out of range in it, lower learner.learning_rate or mend the data, and run it again"
    )
