"""Weights into vLLM's workers, all by one road: vLLM's own weight transfer with a transfer engine that we register.

    collective_rpc: [init_weight_transfer_engine,] start_weight_update, update_weights ..., finish_weight_update

Ours takes tensors of the host as they come. For transfers from device to device it hands the same calls on to vLLM's
engine of that name, which it makes when the trainer opens the transfer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rayalign.config import LoraConfig
from rayalign.errors import InputError, WeightError
from rayalign.models.adapter_output import save_adapter
from rayalign.weights.sets import DeviceSet, WeightSet

if TYPE_CHECKING:
    from vllm import LLM
    from vllm.lora.request import LoRARequest

BACKEND = "rayalign"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""room for an adapter that vLLM can be started with"""


@dataclass
class OpenInfo:
    """What `init_weight_transfer_engine` is called with."""

    backend: str
    """vLLM's name of the transfer that takes over"""
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class Tensors:
    """What `update_weights` is called with, for tensors of the host."""

    named: Iterable[tuple[str, Tensor]]


class WorkerTransfer:
    """The workers of one engine, as its process sees them."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._workers = llm.llm_engine.vllm_config.parallel_config.world_size
        llm.collective_rpc(_attach)
        self.adapter: LoRARequest | None = None
        """what requests name, once an adapter is loaded"""
        self._folder = TemporaryDirectory(prefix="rayalign-adapter-")

    def load(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Replace all weights by tensors of the host; vLLM drops the adapter with them."""
        self.adapter = None
        self._llm.collective_rpc("start_weight_update")
        if self._workers == 1:
            self._update(named)
        else:
            # Each call is sent to processes of their own, so it carries one tensor.
            for item in named:
                self._update([item])
        self._llm.collective_rpc("finish_weight_update")

    def replay(self, weights: DeviceSet) -> None:
        """Make the trainer's calls in their order; the tensors come from device to device meanwhile."""
        self.adapter = None
        for method, arguments in weights.calls:
            if method == "init_weight_transfer_engine":
                opening = {"backend": weights.backend, "settings": arguments["init_info"]}
                self._llm.collective_rpc(method, kwargs={"init_info": opening})
            else:
                self._llm.collective_rpc(method, kwargs=dict(arguments))

    def load_adapter(self, weights: WeightSet) -> None:
        """Put an adapter beside the base, in the place of the one before.

        It goes through a folder, so that vLLM gets tensors of its own (it scales them in place) and can read them
        again for a request that began before the base was replaced.
        """
        from vllm.lora.request import LoRARequest

        assert weights.adapter is not None, "an adapter comes with its settings"
        folder = Path(self._folder.name)
        save_adapter(folder, dict(weights.tensors), weights.adapter, base="", head="causal")
        request = LoRARequest("policy", 1, str(folder), load_inplace=True)
        try:
            self._llm.llm_engine.add_lora(request)
        except ValueError as error:
            raise WeightError(f"vLLM does not take the adapter: {error}; write rollout.adapter: merged") from error
        self.adapter = LoRARequest("policy", 1, str(folder))

    def _update(self, named: Iterable[tuple[str, Tensor]]) -> None:
        self._llm.collective_rpc("update_weights", kwargs={"update_info": {"named": named}})


def adapter_settings(adapter: LoraConfig | None) -> dict[str, Any]:
    """What vLLM must be started with to take adapters up to this one's size.

    Raises:
        InputError: vLLM takes none of that rank.
    """
    if adapter is None:
        return {}
    rooms = [rank for rank in RANKS if rank >= adapter.rank]
    if not rooms:
        raise InputError(
            f"learner.lora.rank is {adapter.rank}, and vLLM takes at most {RANKS[-1]}; write rollout.adapter: merged"
        )
    # The head is never a target: log-probs of a prompt, which the probe needs, fail in vLLM where it is one.
    targets = list(adapter.targets)
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": rooms[0], "lora_target_modules": targets}


def _attach(worker: Any) -> None:
    """Runs in each worker: give it our transfer engine, as `weight_transfer_config` would while the model is loaded."""
    from vllm.config.weight_transfer import WeightTransferConfig
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    with suppress(ValueError):  # another engine of this process has registered it
        WeightTransferEngineFactory.register_engine(BACKEND, _transfer_engine())
    # What a call receives is vLLM's wrapper, which would keep the attribute from the worker.
    worker.worker.weight_transfer_engine = WeightTransferEngineFactory.create_engine(
        WeightTransferConfig(backend=BACKEND), worker.vllm_config, worker.device, worker.model_runner.get_model()
    )


def _transfer_engine() -> type[Any]:
    """The class of our transfer engine; its base is vLLM's, which only this process may import."""
    from vllm.config.weight_transfer import WeightTransferConfig
    from vllm.distributed.weight_transfer.base import WeightTransferEngine
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    class TransferEngine(WeightTransferEngine):
        """Tensors of the host; from device to device by the engine of vLLM that `init_transfer_engine` named."""

        init_info_cls = OpenInfo
        update_info_cls = Tensors
        supports_draft_weight_update = False
        inner: Any = None
        """vLLM's engine of a transfer from device to device"""
        finishing: Any = None
        """whose `finish_weight_update` ends this version, where it is not this one"""

        def init_transfer_engine(self, init_info: OpenInfo) -> None:
            self.shutdown()
            config = WeightTransferConfig(backend=init_info.backend)
            self.inner = WeightTransferEngineFactory.create_engine(config, self.vllm_config, self.device, self.model)
            self.inner.init_transfer_engine(self.inner.parse_init_info(init_info.settings))

        def start_weight_update(self) -> None:
            self.finishing = None
            with torch.no_grad():
                initialize_layerwise_reload(self.model)

        def update_weights(self, update_info: Mapping[str, Any]) -> None:
            if "named" in update_info:
                self.receive_weights(self.parse_update_info(update_info))
            else:
                self.finishing = self.inner
                self.inner.update_weights(update_info)

        def receive_weights(self, update_info: Tensors) -> None:
            with torch.no_grad():
                self.model.load_weights(update_info.named)

        def finish_weight_update(self) -> None:
            with torch.no_grad():
                if self.finishing is not None:
                    self.finishing.finish_weight_update()
                else:
                    finalize_layerwise_reload(self.model, self.model_config)
            if self.device.type == "cpu" and self.model_config.hf_text_config.tie_word_embeddings:
                # The output head works on a packed copy of the embeddings, which the reload does not renew.
                dispatch_cpu_unquantized_gemm(self.model.lm_head, remove_weight=False)

        def shutdown(self) -> None:
            if self.inner is not None:
                self.inner.shutdown()
            self.inner = None

    return TransferEngine
