"""What a model and its optimizer have on a device, moved to host memory and back.

Not tensors are moved but the storages behind them: DeepSpeed has views of flat buffers at many places, and a view of a
storage that is emptied and filled again is still a view. So one way serves every ZeRO stage and precision, of which
DeepSpeed's own `offload_states` serves a part (0.19: neither stage 1 in bf16 nor stage 3 with torch's AdamW).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, UntypedStorage, nn

LearnerPart = Literal["weights", "training"]
"""the model's own tensors; gradients, optimizer state and all else that training needs"""


class DeviceState:
    """What a learner has on its device, part by part there or in host memory; on a CPU nothing moves."""

    def __init__(self, module: nn.Module, optimizer: Any, device: torch.device) -> None:
        """`optimizer` is torch's, or one of DeepSpeed around it."""
        self._module = module
        self._optimizer = optimizer
        self._device = device
        self._copies = HostCopies()

    def offload(self, parts: Sequence[LearnerPart]) -> None:
        """Move parts to host memory."""
        if self._device.type == "cpu":
            return
        tensors = learner_tensors(self._module, self._optimizer, self._device)
        for part in parts:
            self._copies.offload(part, tensors[part])
        torch.cuda.empty_cache()

    def reload(self, parts: Sequence[LearnerPart]) -> None:
        """Move parts back to the device."""
        if self._device.type == "cpu":
            return
        for part in parts:
            self._copies.reload(part)

    def release(self) -> None:
        """Free all of it, on the device and in host memory, whoever still refers to it; nothing may read it any more.

        DeepSpeed 0.19 keeps an engine of ZeRO-3 with its model for as long as the process lives.
        """
        for device in {self._device, torch.device("cpu")}:
            for tensors in learner_tensors(self._module, self._optimizer, device).values():
                _empty(tensors)
        self._copies = HostCopies()


class HostCopies:
    """The storages that are in host memory, by part."""

    def __init__(self) -> None:
        self._copies: dict[LearnerPart, list[tuple[UntypedStorage, Tensor]]] = {}

    def offload(self, part: LearnerPart, tensors: Iterable[Tensor]) -> None:
        """Copy the storages of these tensors to host memory and empty them; until `reload` nothing may read them."""
        assert part not in self._copies, f"{part} is in host memory already"
        copies = []
        for storage in _storages(tensors).values():
            copies.append((storage, _bytes(storage).to("cpu", copy=True)))
            storage.resize_(0)
        self._copies[part] = copies

    def reload(self, part: LearnerPart) -> None:
        """Fill the storages again."""
        for storage, copy in self._copies.pop(part):
            storage.resize_(copy.numel())
            _bytes(storage).copy_(copy)


def learner_tensors(module: nn.Module, optimizer: Any, device: torch.device) -> dict[LearnerPart, list[Tensor]]:
    """The tensors of a model and its optimizer on a device; one that shares memory with a weight counts as a weight."""
    weights = [*module.buffers()]
    for parameter in module.parameters():
        weights.append(parameter.data)
        partition = getattr(parameter, "ds_tensor", None)  # what a rank has of a weight under ZeRO-3
        if partition is not None:
            weights.append(partition)
    weights = [tensor for tensor in weights if tensor.device == device]
    own = _storages(weights)
    others = []
    for tensor in _reachable_tensors([optimizer, *module.parameters()]):
        if tensor.device == device and tensor.untyped_storage().data_ptr() not in own:
            others.append(tensor)
    return {"weights": weights, "training": others}


def _reachable_tensors(roots: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors within containers, and within objects of DeepSpeed and torch's optimizers, with their gradients."""
    pending = deque(roots)
    visited: dict[int, Any] = {}
    while pending:
        value = pending.popleft()
        if id(value) in visited:
            continue
        visited[id(value)] = value
        if isinstance(value, Tensor):
            yield value.detach()
            if value.is_leaf and value.grad is not None:
                pending.append(value.grad)
        elif isinstance(value, dict):
            pending += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | deque):
            pending += value
        elif type(value).__module__.startswith(("deepspeed.", "torch.optim.")) and hasattr(value, "__dict__"):
            pending += vars(value).values()


def _storages(tensors: Iterable[Tensor]) -> dict[int, UntypedStorage]:
    """The storages behind tensors, by their address; empty ones are left out."""
    storages: dict[int, UntypedStorage] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.nbytes():
            storages[storage.data_ptr()] = storage
    return storages


def _empty(tensors: Iterable[Tensor]) -> None:
    """Free the storages behind tensors; one that maps a file cannot be emptied, and takes no memory of its own."""
    for storage in _storages(tensors).values():
        if storage.resizable():
            storage.resize_(0)


def _bytes(storage: UntypedStorage) -> Tensor:
    """A storage as a tensor of bytes."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
