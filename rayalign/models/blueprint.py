"""A model at full size without its weights: names and shapes of its parameters, and which of its layers are linear."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rayalign.errors import InputError
from rayalign.models.configuration import first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_NUMBER = re.compile(r"\.\d+\.")
HEADS = frozenset({"lm_head", "score"})


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a model is made of."""

    shapes: Mapping[str, tuple[int, ...]]
    """of each parameter; tied ones come once"""
    linear: frozenset[str]
    """last parts of the names of its linear layers"""
    tied: bool
    """input and output embeddings are one parameter"""
    architecture: str
    """its class in transformers"""

    @property
    def parameters(self) -> int:
        """How many numbers the model has."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    @property
    def patterns(self) -> frozenset[str]:
        """The names without the numbers of layers and experts."""
        return patterns(self.shapes)


def patterns(names: Collection[str]) -> frozenset[str]:
    """Names of parameters without the numbers of layers and experts."""
    return frozenset(_NUMBER.sub(".N.", _NUMBER.sub(".N.", name)) for name in names)


def blueprint(config: PretrainedConfig, *, scalar: bool = False) -> Blueprint:
    """The model of a configuration, built without memory for its weights.

    Raises:
        InputError: transformers has no such model, or its sizes do not fit together.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind: Any = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            model: nn.Module = kind.from_config(config)
    except (ValueError, RuntimeError, TypeError, AttributeError, AssertionError) as error:
        raise InputError(f"no model can be built from the configuration ({first_line(error)}); correct it") from error
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    layers = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    tied = "lm_head.weight" not in shapes and not scalar
    return Blueprint(shapes, frozenset(name.rpartition(".")[2] for name in layers), tied, type(model).__name__)
