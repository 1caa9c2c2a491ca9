"""Low-rank adapters (Hu et al. 2021, LoRA, arXiv:2106.09685) inside a model, and as tensors with peft's names.

A layer computes W x + alpha / rank * B A x. A starts at random and B at zero, so that a fresh adapter changes nothing.
The layer keeps the name of the linear layer that it replaces: base weights have their Hugging Face names as before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from rayalign.config.sections import LoraConfig
from rayalign.errors import InputError

PREFIX = "base_model.model."
"""of every tensor's name in a peft adapter"""
FACTORS = ("lora_A", "lora_B")
WHOLE = ("score",)
"""modules outside the adapter that are trained whole: a scalar head starts from nothing"""


class LoraLinear(nn.Linear):
    """A linear layer whose weights stay, with a low-rank update beside them."""

    def __init__(self, linear: nn.Linear, config: LoraConfig, generator: torch.Generator) -> None:
        nn.Module.__init__(self)  # the parameters are those of `linear`, none are made
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.weight = linear.weight
        self.bias = linear.bias
        self.scale = config.alpha / config.rank
        self.active = True
        """whether the update takes part"""
        a_RI = torch.empty(config.rank, linear.in_features)
        bound = 1.0 / math.sqrt(linear.in_features)  # peft's: kaiming uniform with a = sqrt(5)
        a_RI.uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(a_RI.to(linear.weight.dtype))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, config.rank, dtype=linear.weight.dtype))

    def forward(self, input: Tensor) -> Tensor:
        output = functional.linear(input, self.weight, self.bias)
        if not self.active:
            return output
        low_rank = functional.linear(input, self.lora_A)
        return output + functional.linear(low_rank, self.lora_B) * self.scale

    @torch.no_grad()
    def merged(self) -> Tensor:
        """Weights [outputs, inputs] that compute the same without an adapter; added up in fp32."""
        update = self.lora_B.float() @ self.lora_A.float() * self.scale
        return (self.weight.float() + update).to(self.weight.dtype)


def add_adapter(model: nn.Module, config: LoraConfig, seed: int) -> None:
    """Freeze the model but for its scalar head, and put an adapter into each target layer.

    Raises:
        InputError: a target names no linear layer, or the output head.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    _verify(layers, config)
    targets = {name: layer for name, layer in layers.items() if name.rpartition(".")[2] in config.targets}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.partition(".")[0] in WHOLE)
    generator = torch.Generator().manual_seed(seed)
    for name, layer in targets.items():
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, LoraLinear(layer, config, generator))


def adapted_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The layers with an adapter, by their names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def is_factor(name: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return name.rpartition(".")[2] in FACTORS


def peft_name(name: str) -> str | None:
    """The name in a peft adapter of a parameter that is trained; None for one that is frozen."""
    if is_factor(name):
        return f"{PREFIX}{name}.weight"
    return f"{PREFIX}{name}" if name.partition(".")[0] in WHOLE else None


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Inside, the model computes what it did before it got its adapter."""
    layers = adapted_layers(model).values()
    for layer in layers:
        layer.active = False
    try:
        yield
    finally:
        for layer in layers:
            layer.active = True


def _verify(layers: Mapping[str, nn.Linear], config: LoraConfig) -> None:
    heads = {"lm_head", *WHOLE}
    kinds = {name.rpartition(".")[2] for name in layers}
    remedy = f"this model has {', '.join(sorted(kinds - heads))}"
    for target in config.targets:
        if target in heads:
            raise InputError(f"learner.lora.targets: {target} is the model's head, which gets no adapter; {remedy}")
        if target not in kinds:
            raise InputError(f"learner.lora.targets: no linear layer is named {target}; {remedy}")
