"""Whole tensors of a model that DeepSpeed may hold in parts: its weights by Hugging Face names, its adapter alone.

All methods are collective: every rank reads the tensors to the end, in the same order. Under ZeRO-3 one tensor is whole
at a time, on rank 0 alone; other ranks take part in the gathers and get what they hold themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from rayalign.config import LoraConfig
from rayalign.models.lora import LoraLinear, adapted_layers, is_factor, peft_name
from rayalign.weights.buckets import TensorSpec
from rayalign.weights.sets import Form, WeightSet


class WholeTensors:
    """Reads a model's tensors; `stage` is that of ZeRO."""

    def __init__(self, model: nn.Module, lora: LoraConfig | None, *, stage: int, rank: int) -> None:
        self._model = model
        self._lora = lora
        self._stage = stage
        self._rank = rank

    def weights(self, version: int, form: Form) -> WeightSet:
        """The set that engines load as `version`."""
        if form == "adapter":
            assert self._lora is not None, "only a model with an adapter sends one"
            names = {name: key for name, _ in self._model.named_parameters() if (key := peft_name(name))}
            return WeightSet("adapter", version, self.adapter(), self._specs(names), self._lora)
        names = {name: name for name, _ in self._model.named_parameters() if not is_factor(name)}
        return WeightSet("full", version, self.full(merged=form == "merged"), self._specs(names))

    def full(self, *, merged: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Every weight; `merged` adds the adapter to the weights that it belongs to."""
        layers = {f"{name}.weight": layer for name, layer in adapted_layers(self._model).items()}
        for name, parameter in self._model.named_parameters():
            if is_factor(name):
                continue
            layer = layers.get(name) if merged else None
            yield name, self._merge(layer) if layer is not None else self._whole(parameter)

    def adapter(self) -> Iterator[tuple[str, Tensor]]:
        """What is trained of a model with an adapter, by peft's names."""
        for name, parameter in self._model.named_parameters():
            key = peft_name(name)
            if key is not None:
                yield key, self._whole(parameter)

    def on_host(self, named: Iterator[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors on the CPU; empty on other ranks than 0, which take part."""
        tensors: dict[str, Tensor] = {}
        for name, tensor in named:
            if self._rank == 0:
                tensors[name] = tensor.cpu()
        return tensors

    def _whole(self, parameter: Tensor) -> Tensor:
        tensor = parameter.detach()
        with self._gathered([parameter]):
            if self._rank == 0 and self._stage == 3:
                tensor = parameter.detach().clone()
        return tensor

    def _merge(self, layer: LoraLinear) -> Tensor:
        tensor = layer.weight.detach()
        with self._gathered([layer.weight, layer.lora_A, layer.lora_B]):
            if self._rank == 0:
                tensor = layer.merged()
        return tensor

    def _gathered(self, parameters: Sequence[Tensor]) -> AbstractContextManager[None]:
        if self._stage < 3:
            return nullcontext()
        import deepspeed

        gathered: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(parameters)
        return gathered

    def _specs(self, keys: dict[str, str]) -> tuple[TensorSpec, ...]:
        """What the named parameters are when they are whole, without a gather."""
        specs = []
        for name, parameter in self._model.named_parameters():
            if name in keys:
                shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
                specs.append(TensorSpec(keys[name], str(parameter.dtype).removeprefix("torch."), shape))
        return tuple(specs)
