"""What a job's numbers come to at full size: memory of devices, steps, checkpoints, warm-up, guards, unseen prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rayalign.config import DataConfig, LoadedJob
from rayalign.pipeline.kind import StageKind, kinds_of
from rayalign.pipeline.plan import Plan, plan, size
from rayalign.pipeline.train import TrainKind
from rayalign.rehearsal.findings import Finding

DEFAULT = "default"


def check_memory(loaded: LoadedJob) -> Iterator[Finding]:
    """Devices that are too small for what stands on them, optimizer states and activations counted."""
    planned: Plan = plan(loaded.job)
    for stage in planned.stages:
        for device, claim in stage.device_memory.items():
            if claim > planned.device_bytes and not stage.shared:
                roles = []
                for role in stage.roles:
                    if device.removeprefix("gpu:") in role.device_numbers and role.memory:
                        roles.append(f"{role.role} {size(role.memory)}")
                yield Finding(
                    f"stages.{stage.name}.roles",
                    f"{device} must hold {size(claim)} ({', '.join(roles)}), but it has {size(planned.device_bytes)}; "
                    "use more ranks with zero_stage 3, spread of a frozen role, offload, lora, or smaller micro_tokens "
                    "or rollout.cache_bytes",
                )
                break


def check_schedule(loaded: LoadedJob, rows: Mapping[str, int]) -> Iterator[Finding]:
    """Steps that never come, and batches that are larger than the data.

    Args:
        rows: usable rows of each section that was read whole, by `STAGE.KEY`.
    """
    kinds = kinds_of(loaded.job)
    for name, kind in kinds.items():
        if kind.training is not None:
            yield from _training(loaded, name, kind.training, rows.get(f"{name}.data"))
    yield from _unseen(kinds)


def _training(loaded: LoadedJob, name: str, kind: TrainKind, rows: int | None) -> Iterator[Finding]:
    stage, where = kind.stage, f"stages.{name}"
    steps = kind.steps(rows)
    if steps == 0:
        yield Finding(
            f"{where}.learner.minibatch",
            f"a minibatch has {stage.learner.minibatch} samples, but there are {rows} rows; lower it",
        )
    for role in kind.trained:
        key = "critic_learner" if role == "critic" and stage.critic_learner else "learner"
        warmup = kind.learner(role).warmup_steps
        if steps and warmup >= steps:
            yield Finding(
                f"{where}.{key}.warmup_steps",
                f"the rate warms up for {warmup} steps, but the stage has {steps}, so it is never reached; lower it",
            )
    if stage.online:
        yield from _online(loaded, where, kind, rows)


def _online(loaded: LoadedJob, where: str, kind: TrainKind, rows: int | None) -> Iterator[Finding]:
    stage = kind.stage
    written = loaded.origins.get(f"{where}.checkpoint_every", DEFAULT) != DEFAULT
    if written and stage.checkpoint_every > stage.iterations:
        yield Finding(
            f"{where}.checkpoint_every",
            f"a checkpoint comes every {stage.checkpoint_every} iterations, but there are {stage.iterations}: a run "
            "that is interrupted begins anew; lower it",
        )
    if rows is not None and rows < stage.prompts:
        yield Finding(
            f"{where}.prompts",
            f"an iteration has {stage.prompts} prompts, but the data have {rows}, which come several times; lower it",
        )
    for number, guard in enumerate(stage.guards):
        if guard.patience > stage.iterations:
            yield Finding(
                f"{where}.guards.{number}.patience",
                f"{guard.patience} iterations in a row never come, since there are {stage.iterations}; lower it",
            )


def _unseen(kinds: Mapping[str, StageKind[Any]]) -> Iterator[Finding]:
    """Evaluations that all use rows which a policy was trained on; one of several may do so to show the difference."""
    trained: dict[str, str] = {}
    """source of rows -> the first stage that trains on them"""
    on_trained_rows: list[Finding] = []
    evaluations = 0
    for name, kind in kinds.items():
        data = kind.data
        if data is None or kind.data_use is None:
            continue
        if kind.training is not None:
            trained.setdefault(_source(data), name)
        elif kind.compares():
            evaluations += 1
            stage = trained.get(_source(data))
            if stage is not None:
                text = f"the same rows as those that stage {stage} trains on; name another split"
                on_trained_rows.append(Finding(f"stages.{name}.data", text))
    if len(on_trained_rows) == evaluations:
        yield from on_trained_rows


def _source(data: DataConfig) -> str:
    """Where rows come from; in JSON, since the parts of a blend may rename columns, and mappings have no hash."""
    return data.model_dump_json(include={"format", "path", "split", "phase", "blend"})
