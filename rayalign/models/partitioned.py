"""Models that lie in parts on the ranks (ZeRO-3) from the first moment on, so that no rank holds one whole.

The modules are built without memory for their weights. Then rank 0 reads one layer at a time and spreads it before
the next one. Host memory is one layer's weights on each rank, whatever the size of the model. All functions are
collective: every rank calls them with the same arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rayalign.errors import InputError
from rayalign.weights.files import model_folder, read_tensor, shapes, tensor_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True, slots=True)
class Partition:
    """How a model is spread over ranks."""

    rank: int
    device: torch.device
    engine: Mapping[str, Any]
    """DeepSpeed's configuration"""


def load_partitioned(
    kind: Any,
    path: str,
    model_config: PretrainedConfig,
    dtype: torch.dtype,
    partition: Partition,
    *,
    fresh: tuple[str, ...] = (),
    **settings: Any,
) -> PreTrainedModel:
    """A model built by one of transformers' automatic classes, each rank with its own part of the folder's weights.

    Args:
        fresh: parameters that the folder need not have; their values are for the caller to set.
        settings: further arguments of the automatic class.

    Raises:
        InputError: the folder lacks weights, or has them in other shapes.
    """
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        model: PreTrainedModel = kind.from_config(model_config, dtype=dtype, **settings)
    model.tie_weights()
    _fill(model, model_folder(path), partition, fresh)
    _compute_buffers(model, partition.device)
    model.tie_weights()  # again, since the parameters are new ones
    return model.eval()


def set_whole(parameter: nn.Parameter, values: Tensor, partition: Partition | None) -> None:
    """Set a parameter that may be partitioned to values that every rank has whole."""
    if partition is None:
        parameter.data.copy_(values)
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        if partition.rank == 0:
            parameter.data.copy_(values)


def _fill(model: nn.Module, folder: Path, partition: Partition, fresh: tuple[str, ...]) -> None:
    """Read the weights of one module after the other; each is spread before the next is read."""
    import deepspeed

    _verify_shapes(folder, dict(model.named_parameters()), shapes(folder), fresh)
    files = tensor_files(folder)
    filled: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        own = {name: p for name, p in module.named_parameters(prefix, recurse=False) if p not in filled}
        layer = nn.ParameterList()
        for name, parameter in own.items():
            whole_tensor = torch.empty(parameter.shape, dtype=parameter.dtype, device=partition.device)
            if partition.rank == 0 and name in files:
                whole_tensor.copy_(read_tensor(files[name], name))
            layer.append(nn.Parameter(whole_tensor))
            setattr(module, name.rpartition(".")[2], layer[-1])
        filled.update(own.values())
        if own:
            # It sends what rank 0 has to the others, each of which keeps its own part.
            deepspeed.zero.Init(module=layer, config_dict_or_path=dict(partition.engine))


def _compute_buffers(model: PreTrainedModel, device: torch.device) -> None:
    """Compute what a model holds beside its weights, such as the frequencies of its positions."""
    for module in model.modules():
        buffers = dict(module.named_buffers(recurse=False))
        for name, buffer in buffers.items():
            module._buffers[name] = torch.empty_like(buffer, device=device)
        if buffers:
            model._init_weights(module)


def _verify_shapes(
    folder: Path, parameters: Mapping[str, Any], stored: Mapping[str, tuple[int, ...]], fresh: tuple[str, ...]
) -> None:
    for name, parameter in parameters.items():
        needed = tuple(parameter.shape)
        if name not in fresh and stored.get(name) != needed:
            raise InputError(
                f"model {folder}: {name} is {stored.get(name, 'missing')} in its files, not {needed}; name a model of "
                "the kind that is needed here, or set learner.zero_stage below 3"
            )
