"""A LoRA adapter added to the weights of its base on disk; one matrix at a time is in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from rayalign.errors import InputError
from rayalign.models.adapter_folder import PREFIX, AdapterFolder, Factors
from rayalign.models.model_folder import ModelFolder
from rayalign.models.output_folder import copy_companions
from rayalign.weights.streaming import StoredTensor, write_tensors


def write_adapted(base: ModelFolder, adapter: AdapterFolder, folder: Path) -> None:
    """Write the base with each matrix W moved to W + scale B A, added up in fp32 and stored in the base's types.

    The folder carries no probe: the base's would be false.

    Raises:
        InputError: the adapter moves what the base does not have, or holds more than factors.
    """
    fits_base(base, adapter)
    factors = {_matrix(module): own for module, own in adapter.modules.items()}
    copy_companions(base.path, folder)
    base.write_index(folder, list(base.tensors), sum(tensor.size for tensor in base.tensors.values()))
    for file_name, shard in base.shards.items():
        contents = {name: (tensor.dtype, tensor.shape) for name, tensor in shard.items()}
        write_tensors(folder / file_name, contents, _moved(shard, factors))


def _moved(shard: Mapping[str, StoredTensor], factors: Mapping[str, Factors]) -> Iterator[Tensor]:
    for name, tensor in shard.items():
        weight = tensor.read()
        own = factors.get(name)
        if own is not None:
            update = own.b.read().float() @ own.a.read().float() * own.scale
            weight = (weight.float() + update).to(weight.dtype)
        yield weight


def fits_base(base: ModelFolder, adapter: AdapterFolder) -> None:
    """InputError unless the adapter is of factors alone, for matrices of these names and shapes in the base."""
    if adapter.whole:
        name = next(iter(adapter.whole))
        raise InputError(f"{adapter.path} holds {name} beside its factors; only pure LoRA adapters are added to a base")
    if adapter.config.get("fan_in_fan_out"):
        raise InputError(
            f"{adapter.path} is of a model that stores its matrices transposed (fan_in_fan_out); merge it with peft"
        )
    for module, own in adapter.modules.items():
        name = _matrix(module)
        if name not in base.tensors:
            raise InputError(f"{base.path} has no {name}, which the adapters move; name the one they were made from")
        shape = base.tensors[name].shape
        if tuple(shape) != own.width:
            raise InputError(
                f"{name} is {shape} in {base.path}, but the adapters move {own.width}; name the model that they were "
                "made from"
            )


def _matrix(module: str) -> str:
    """The name in the base of the matrix that a module's factors move."""
    return f"{module.removeprefix(PREFIX)}.weight"
