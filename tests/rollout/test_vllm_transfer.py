"""The calls that bring weights into vLLM's workers, and what an engine has vLLM do, with a vLLM that only records."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

from rayalign.config import RolloutConfig
from rayalign.rollout.drafts import Drafts
from rayalign.rollout.vllm import VllmEngine
from rayalign.rollout.vllm_transfer import WorkerTransfer
from rayalign.weights.sets import DeviceSet


class RecordingLlm:
    """What a transfer and the turns on a shared device use of `vllm.LLM`; remembers the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Mapping[str, Any]]] = []
        parallel = SimpleNamespace(world_size=1)
        self.llm_engine = SimpleNamespace(vllm_config=SimpleNamespace(parallel_config=parallel))

    def collective_rpc(self, method: Any, kwargs: Mapping[str, Any] | None = None) -> None:
        if isinstance(method, str):  # else it attaches our transfer engine
            self.calls.append((method, kwargs or {}))

    def sleep(self, level: int) -> None:
        self.calls.append(("sleep", {"level": level}))

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(("wake_up", {"tags": tags}))


def test_the_trainers_calls_are_made_in_their_order_and_the_opening_names_the_backend() -> None:
    llm = RecordingLlm()
    transfer = WorkerTransfer(cast("Any", llm))
    transfer.adapter = cast("Any", "the adapter of the weights before")
    update = {"update_info": {"names": ["a"]}}
    calls = [
        ("init_weight_transfer_engine", {"init_info": {"rank_offset": 3, "world_size": 5}}),
        ("start_weight_update", {}),
        ("update_weights", update),
        ("finish_weight_update", {}),
    ]
    transfer.replay(DeviceSet("full", 1, (), backend="nccl", calls=iter(calls)))
    opening = {"init_info": {"backend": "nccl", "settings": {"rank_offset": 3, "world_size": 5}}}
    assert llm.calls == [("init_weight_transfer_engine", opening), *calls[1:]]
    assert transfer.adapter is None


def test_a_sleeping_engine_frees_its_weights_too_unless_it_is_to_keep_them() -> None:
    engine = VllmEngine.__new__(VllmEngine)  # without vLLM
    llm = RecordingLlm()
    engine._llm, engine._drafts = cast("Any", llm), Drafts(RolloutConfig().context)
    engine.sleep()
    engine.wake("weights")
    engine.wake("cache")
    engine.sleep(keep_weights=True)
    assert llm.calls == [
        ("sleep", {"level": 2}),
        ("wake_up", {"tags": ["weights"]}),
        ("wake_up", {"tags": ["kv_cache"]}),
        ("sleep", {"level": 1}),
    ]
