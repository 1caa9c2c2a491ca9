"""What only a GPU can show of a run, in at most eight minutes on whatever GPUs there are: one JSON with every step.

    python -m benchmarks.gpu_smoke                 # 0.5B parameters, results/gpu_smoke.json
    python -m benchmarks.gpu_smoke --model 1.5B    # results/gpu_smoke_1.5B.json
    python -m benchmarks.gpu_smoke --rehearse      # on a CPU; nothing is recorded

    one device    policy and engine share it; weights by the object store, then by CUDA IPC
    two           a policy of two ZeRO-3 ranks, the engine beside one of them; store, then CUDA IPC
    three or more two ranks and an engine on devices of their own; store, then NCCL

`--rehearse` runs the same steps on a CPU with a small model and leaves out what needs a device: it shows that the
script itself works. Model FLOPs utilisation (MFU) counts 6 FLOPs for each parameter and token, without attention,
against the peak of the device's data sheet.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch

from benchmarks.models import SHAPES, make
from benchmarks.record import record
from rayalign.actors.learner import LearnerSpec
from rayalign.algorithms.base import load
from rayalign.cluster.channel import WeightChannel
from rayalign.cluster.ledger import DeviceLedger
from rayalign.cluster.placement import Slot
from rayalign.cluster.pool import GeneratorPool
from rayalign.cluster.pool_start import start_pool
from rayalign.cluster.roles import Roles, start_roles
from rayalign.cluster.session import Session
from rayalign.cluster.sharing import Share, sharer
from rayalign.cluster.turns import PRESENCE, DeviceTurns
from rayalign.config import ClusterConfig, LearnerConfig, LoraConfig, RoleConfig, RolloutConfig, SamplingConfig
from rayalign.data.chat import load_tokenizer
from rayalign.data.collate import EncodedRow, collate_examples
from rayalign.errors import RayalignError
from rayalign.forecast.devices import device_of_driver
from rayalign.models.catalogue import shape_of
from rayalign.pipeline.kind import GENERATOR
from rayalign.pipeline.sizes import BYTES, learner_parts
from rayalign.rollout.base import Request
from rayalign.storage.events import EventLog
from rayalign.weights import probe
from rayalign.weights.paths.base import PathConfig, PathName

LIMIT = 480.0
"""seconds for everything"""
CLUSTER = ClusterConfig(object_store=6 << 30, start_timeout=240, call_timeout=240, transfer_timeout=120)
ADAPTER = LoraConfig(rank=8)
VERSIONS = 3
"""transfers by each path"""


@dataclass(frozen=True)
class Layout:
    """Who stands on which share of a device."""

    devices: int
    """CUDA devices of this machine; 0: a rehearsal"""
    model: str = "8M"
    """its name in `benchmarks.models`"""

    @property
    def batch(self) -> tuple[int, int]:
        """Rows of a training batch, and tokens of each."""
        return (64, 512) if self.devices else (16, 64)

    @property
    def ranks(self) -> int:
        """Ranks of the policy."""
        return 2 if self.devices >= 2 else 1

    @property
    def alone(self) -> bool:
        """True where the engine has a device of its own."""
        return self.devices >= 3

    @property
    def policy(self) -> RoleConfig:
        """Two ranks never share a device: two shares of 0.6 do not fit on one."""
        share = 1.0 if self.alone else 0.6
        return RoleConfig(actors=self.ranks, gpus=share if self.devices else 0.0, cpus=0.5)

    @property
    def rollout(self) -> RolloutConfig:
        """The one engine."""
        share = 1.0 if self.alone else 0.4
        return RolloutConfig(
            engine="vllm",
            engines=1,
            gpus=share if self.devices else 0.0,
            cpus=0.5,
            context=256,
            dtype="bfloat16" if self.devices else "float32",
            cache_bytes=(2 << 30) if self.devices else (64 << 20),
        )

    @property
    def learner(self) -> LearnerConfig:
        """ZeRO-3 that keeps nothing whole between two uses, so that every gather really happens."""
        precision = "bf16" if self.devices else "fp32"
        return LearnerConfig(learning_rate=1e-4, minibatch=8, precision=precision, zero_stage=3, zero_live_parameters=0)

    @property
    def paths(self) -> list[PathName]:
        """The weight paths that this machine allows."""
        if not self.devices:
            return ["store"]
        return ["store", "nccl" if self.alone else "ipc"]


@dataclass
class Report:
    """Each step's figures, or why it failed; a failure does not stop the steps that need it not."""

    start: float = field(default_factory=time.perf_counter)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def step(self, name: str, work: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        """Run one step within what is left of the time."""
        begin = time.perf_counter()
        remaining = LIMIT - (begin - self.start)
        try:
            figures = await asyncio.wait_for(work(), max(remaining, 1.0))
            figures = {"passed": True, **figures}
        except (RayalignError, TimeoutError, ray.exceptions.RayError) as error:
            figures = {"passed": False, "reason": f"{type(error).__name__}: {error}"}
        figures["seconds"] = time.perf_counter() - begin
        self.steps[name] = figures
        print(f"{name}: {'passed' if figures['passed'] else figures['reason']} ({figures['seconds']:.1f} s)")


def batch_reference(layout: Layout) -> list[ray.ObjectRef]:
    """A fixed batch for optimizer steps, in the object store."""
    count, length = layout.batch
    rows = []
    for row in range(count):
        tokens = tuple(5 + (row + place) % 250 for place in range(length))
        rows.append(EncodedRow(tokens, (False, *[True] * (length - 1)), row))
    return [ray.put(load({"name": "sft"}).prepare(collate_examples(rows, 0)))]


async def update(roles: Roles, layout: Layout) -> dict[str, Any]:
    """Optimizer steps of all ranks."""
    batch = batch_reference(layout)
    begin = time.perf_counter()
    answers = await roles["policy"].all(lambda actor: actor.update.remote(batch, 1))
    seconds = time.perf_counter() - begin
    steps = answers[0]
    return {
        "steps": len(steps),
        "grad_norm": steps[-1]["learner/grad_norm"].value,
        "update_seconds": seconds,
    }


async def train(roles: Roles, layout: Layout, parameters: int) -> dict[str, Any]:
    """Training tokens a second, and how much of the devices' peak that is; the first update is not counted."""
    await update(roles, layout)
    figures = await update(roles, layout)
    count, length = layout.batch
    speed = count * length / figures["update_seconds"]
    device = device_of_driver(torch.cuda.get_device_name(0)) if layout.devices else None
    share = None if device is None else utilisation(parameters, speed, device.bf16, layout.ranks)
    return {**figures, "tokens_per_second": speed, "mfu": share}


def utilisation(parameters: int, tokens_per_second: float, peak: float, devices: int) -> float:
    """Model FLOPs utilisation of a training.

    Args:
        peak: of one device [TFLOP/s].
    """
    return 6 * parameters * tokens_per_second / (peak * 1e12 * devices)


async def transfers(
    roles: Roles, layout: Layout, pool: GeneratorPool, channel: WeightChannel, path: str
) -> dict[str, Any]:
    """Some versions by one path, with an update before each, every one proven by the probe."""
    gaps = []
    seconds = []
    size = 0
    for version in range(VERSIONS):
        await update(roles, layout)
        done = await channel.transfer(roles["policy"], pool, version)
        gaps.append(done.gap)
        seconds.append(done.seconds)
        size = done.bytes
    return {
        "path": path,
        "bytes": size,
        "transfer_seconds": seconds,
        "gigabytes_per_second": size / statistics.median(seconds) / 1e9,
        "probe_gaps": gaps,
    }


async def generate(pool: GeneratorPool) -> dict[str, Any]:
    """Tokens per second of the one engine."""
    sampling = SamplingConfig(max_tokens=128)
    requests = [Request(str(i), tuple(range(5, 21)), i, sampling, ()) for i in range(64)]
    start = time.perf_counter()
    await pool.submit(requests)
    tokens = 0
    remaining = len(requests)
    stream = pool.finished()
    while remaining:
        finished = await asyncio.wait_for(anext(stream), 120)
        tokens += len(finished.tokens)
        remaining -= 1
    await stream.aclose()  # type: ignore[attr-defined]
    return {"tokens": tokens, "tokens_per_second": tokens / (time.perf_counter() - start)}


def make_turns(layout: Layout, model: str, pool: GeneratorPool, roles: Roles, events: EventLog) -> DeviceTurns:
    """Turns of the engine and the policy's ranks, in the one that the engine has."""
    shape = shape_of(model)
    assert shape is not None
    weights = BYTES[layout.rollout.dtype] * shape.parameters
    shares = {
        GENERATOR: Share({"weights": weights, "cache": layout.rollout.cache_bytes}, PRESENCE[GENERATOR]),
        "policy": Share(learner_parts(shape, layout.learner, layout.ranks), PRESENCE["policy"]),
    }
    ledger = DeviceLedger(dict.fromkeys(map(str, range(layout.ranks)), CLUSTER.gpu_memory))
    turns = DeviceTurns(ledger, events)
    slots = [Slot("", (str(rank),), {}) for rank in range(layout.ranks)]
    turns.add(sharer(GENERATOR, pool.group.all, slots[:1], shares[GENERATOR]), "rollout")
    turns.add(sharer("policy", roles["policy"].all, slots, shares["policy"]), "training")
    return turns


async def by_turns(
    roles: Roles, layout: Layout, pool: GeneratorPool, channel: WeightChannel, turns: DeviceTurns
) -> dict[str, Any]:
    """Seconds of each change of turn, with an update and a transfer between them; free memory in each."""
    seconds: dict[str, float] = {}
    free: dict[str, int] = {}
    for version in range(VERSIONS):
        begin = time.perf_counter()
        await turns.enter("training")
        seconds["training"] = time.perf_counter() - begin
        free["training"] = free_memory()
        await update(roles, layout)
        figures = await channel.transfer(roles["policy"], pool, version)
        seconds["publish_and_rollout"] = figures.seconds
        free["rollout"] = free_memory()
    await turns.enter("training")
    return {"turn_seconds": seconds, "free_bytes": free, "probe_gap": figures.gap}


def free_memory() -> int:
    """Of the first device [bytes]; 0 where there is none."""
    return torch.cuda.mem_get_info(0)[0] if torch.cuda.is_available() else 0


def make_channel(
    model: str, layout: Layout, path: PathName, events: EventLog, scratch: Path, **more: Any
) -> WeightChannel:
    """A channel over one path."""
    return WeightChannel(
        probe.tokens_of(load_tokenizer(model)),
        bound=probe.Bound(layout.learner.precision, layout.rollout.dtype),
        path=PathConfig(name=path, timeout=CLUSTER.transfer_timeout, folder=str(scratch / "weights")),
        events=events,
        **more,
    )


def spec_of(model: str, config: LearnerConfig) -> LearnerSpec:
    """The policy that all steps train."""
    return LearnerSpec(model, config, {"name": "sft"}, temperature=1.0, total_steps=100, seed=0, timeout=120.0)


async def measure(layout: Layout, model: str, parameters: int, scratch: Path, report: Report) -> None:
    """All steps, one after the other."""
    events = EventLog(scratch / "events.jsonl")
    pool = await start_pool("vllm", model, layout.rollout, CLUSTER, events, ADAPTER)
    roles = await start_roles({"policy": spec_of(model, layout.learner)}, {"policy": layout.policy}, CLUSTER, events)
    await report.step("update_zero3", lambda: train(roles, layout, parameters))
    for path in layout.paths:
        channel = make_channel(model, layout, path, events, scratch)
        await report.step(f"transfer_{path}", lambda c=channel, p=path: transfers(roles, layout, pool, c, p))  # type: ignore[misc]
    await report.step("generate", lambda: generate(pool))
    turns = make_turns(layout, model, pool, roles, events)
    channel = make_channel(model, layout, layout.paths[-1], events, scratch, turns=turns)
    await report.step("device_turns", lambda: by_turns(roles, layout, pool, channel, turns))
    roles.stop()
    turns.remove("policy")
    await turns.enter("rollout")
    with_adapter = layout.learner.model_copy(update={"lora": ADAPTER, "zero_stage": 0, "zero_live_parameters": None})
    roles = await start_roles({"policy": spec_of(model, with_adapter)}, {"policy": layout.policy}, CLUSTER, events)
    channel = make_channel(model, layout, "store", events, scratch, adapter=ADAPTER)
    await report.step("transfer_adapter", lambda: transfers(roles, layout, pool, channel, "store"))
    roles.stop()
    pool.stop()


def main() -> None:
    """Run on the GPUs that there are, or rehearse without any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="0.5B", choices=[name for name in SHAPES if name.endswith("B")])
    parser.add_argument("--rehearse", action="store_true", help="the same steps on a CPU with a small model")
    arguments = parser.parse_args()
    devices = 0 if arguments.rehearse else torch.cuda.device_count()
    if not devices and not arguments.rehearse:
        sys.exit("there is no CUDA device here; --rehearse runs the same steps on a CPU")
    layout = Layout(devices, arguments.model) if devices else Layout(0)
    report = Report()
    with tempfile.TemporaryDirectory() as folder, Session(CLUSTER):
        scratch = Path(folder)
        model = str(scratch / "model")
        parameters = make(layout.model, Path(model))
        asyncio.run(measure(layout, model, parameters, scratch, report))
    passed = all(step["passed"] for step in report.steps.values())
    names = [torch.cuda.get_device_name(i) for i in range(devices)]
    figures = {
        "devices": names,
        "model": layout.model,
        "parameters": parameters,
        "passed": passed,
        "limit_seconds": LIMIT,
        "seconds": time.perf_counter() - report.start,
        "steps": report.steps,
    }
    if devices:
        record("gpu_smoke" if layout.model == "0.5B" else f"gpu_smoke_{layout.model}", figures)
    else:
        print(json.dumps(figures, indent=1))
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
