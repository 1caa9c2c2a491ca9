"""The paths from device to device, over vLLM's own weight transfer: `nccl` between devices, `ipc` on shared ones.

    rank 0: vLLM's trainer engine -- weights over NCCL or CUDA IPC --> vLLM's workers
            its client            -- calls over the line           --> the engine, which calls its workers

Neither runs on a CPU: tests/gpu covers them on devices, and the calls are tested everywhere with a trainer engine that
only records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from rayalign.weights.paths.base import Header, Line, PathConfig
from rayalign.weights.sets import DeviceSet, WeightSet

BUFFER_BYTES = 256 << 20
"""smallest buffer of one packed message; two exist at a time"""


class EngineClient:
    """vLLM's `VLLMWeightSyncClient` over a line: its four methods become messages."""

    def __init__(self, tensor_parallel: int) -> None:
        self._tensor_parallel = tensor_parallel
        self.line: Line | None = None

    def init_weight_transfer_engine(self, init_info: Mapping[str, Any]) -> None:
        """Open every engine's end; each engine's workers get ranks of their own, where vLLM always says 1."""
        assert self.line is not None
        messages = []
        for index in range(self.line.engines):
            info = dict(init_info)
            if "rank_offset" in info:
                info["rank_offset"] = 1 + index * self._tensor_parallel
            messages.append(("init_weight_transfer_engine", {"init_info": info}))
        self.line.post_each(messages)

    def start_weight_update(self) -> None:
        """Begin a version."""
        self._call("start_weight_update", {})

    def update_weights(self, update_info: Mapping[str, Any]) -> None:
        """Receive what the trainer sends meanwhile."""
        self._call("update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """End a version."""
        self._call("finish_weight_update", {})

    def _call(self, method: str, arguments: Mapping[str, Any]) -> None:
        assert self.line is not None
        self.line.post((method, arguments), ahead=1)


class ReplayedSource:
    """vLLM's `WeightSource` over the set that is being sent."""

    def __init__(self, weights: WeightSet) -> None:
        self.weights = weights

    def metadata(self) -> list[Any]:
        """Name, type and shape of each tensor, without a gather."""
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [ParamMeta(spec.name, getattr(torch, spec.dtype), spec.shape) for spec in self.weights.specs]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.weights.tensors)

    def held_names(self) -> None:
        """All ranks hold all tensors."""
        return None


class DevicePath:
    """`nccl` or `ipc`. An engine that dies while NCCL sends ends in the transfer's deadline."""

    def __init__(self, config: PathConfig, join: Callable[..., Any] | None = None) -> None:
        """`join` makes the trainer's engine, vLLM's factory where none is named."""
        assert config.name in ("nccl", "ipc")
        self._backend: Literal["nccl", "ipc"] = "nccl" if config.name == "nccl" else "ipc"
        self._config = config
        self._join = join or _vllm_trainer
        self._client = EngineClient(config.tensor_parallel)
        self._source: ReplayedSource | None = None
        self._trainer: Any = None

    def open(self) -> None:
        """Nothing yet: the two ends meet in the first transfer."""

    def send(self, weights: WeightSet, line: Line | None) -> int:
        self._client.line = line
        if self._source is None:
            self._source = ReplayedSource(weights)
            engines = line.engines if line else 0
            buffer_bytes = max(BUFFER_BYTES, *(spec.bytes for spec in weights.specs))
            self._trainer = self._join(
                self._config,
                rank=0 if line else 1,
                world=1 + engines * self._config.tensor_parallel,
                buffer_bytes=buffer_bytes,
                client=self._client,
                source=self._source,
            )
        self._source.weights = weights
        self._trainer.send_weights()
        if line is None:
            return 0
        line.end()
        return sum(spec.bytes for spec in weights.specs)

    def receive(self, header: Header, messages: Iterator[Any]) -> WeightSet:
        return DeviceSet(header.kind, header.version, (), backend=self._backend, calls=messages)

    def close(self) -> None:
        if self._trainer is not None:
            self._trainer.shutdown()
        self._trainer = None
        self._source = None


def _vllm_trainer(
    config: PathConfig, *, rank: int, world: int, buffer_bytes: int, client: EngineClient, source: ReplayedSource
) -> Any:
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    init: Any
    if config.name == "nccl":
        init = NCCLTrainerInitInfo(
            master_address=config.address,
            master_port=config.port,
            world_size=world,
            packed_buffer_size_bytes=buffer_bytes,
            rank=rank,
        )
    else:
        # A tensor larger than the buffer is refused, so the buffer holds the largest one.
        init = IPCTrainerInitInfo(packed=True, packed_buffer_size_bytes=buffer_bytes, rank=rank)
    return WeightTransferTrainerFactory.trainer_init(init, client=client, source=source)
