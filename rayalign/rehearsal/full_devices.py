"""What only the job's own devices would refuse: ranks that share one, paths between them, kernels, judges' models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rayalign.annotator.service_file import load_service
from rayalign.config import Job
from rayalign.pipeline.kind import trainings_of
from rayalign.pipeline.needs import GENERATOR
from rayalign.pipeline.train import TrainKind
from rayalign.rehearsal.findings import Finding


def check_devices(job: Job) -> Iterator[Finding]:
    """Every finding about devices and about the models of the annotator service."""
    for name, training in trainings_of(job).items():
        yield from _ranks(job, name, training)
        yield from _kernels(name, training)
        yield from _paths(job, name, training)
    yield from _judges(job)


def _ranks(job: Job, name: str, kind: TrainKind) -> Iterator[Finding]:
    """NCCL has no two ranks of a group on one device."""
    for need in kind.roles(job):
        meets = need.trained or need.host.spread
        if meets and need.within is None and need.host.actors > 1 and 0 < need.host.gpus < 1:
            yield Finding(
                f"stages.{name}.roles.{need.role}.gpus",
                f"{need.host.actors} ranks with {need.host.gpus:g} of a device each would share one, which NCCL "
                "refuses; take 1, or one actor",
            )


def _kernels(name: str, kind: TrainKind) -> Iterator[Finding]:
    for role in kind.trained:
        learner = kind.learner(role)
        if learner.attention == "flash" and learner.precision != "bf16":
            key = "critic_learner" if role == "critic" and kind.stage.critic_learner else "learner"
            yield Finding(
                f"stages.{name}.{key}.attention",
                f"flash attention computes in bf16, but precision is {learner.precision}; set bf16, or attention: sdpa",
            )


def _paths(job: Job, name: str, kind: TrainKind) -> Iterator[Finding]:
    """A path from device to device has a device at both ends."""
    path = job.rollout.weights
    if path not in ("nccl", "ipc") or not kind.stage.online:
        return
    on_cpu = [need.role for need in kind.roles(job) if need.role in (GENERATOR, "policy") and not need.host.gpus]
    if on_cpu:
        text = f"{path} goes from device to device, but {' and '.join(on_cpu)} of {name} have none; write auto"
        yield Finding("rollout.weights", text)
    elif path == "ipc" and not job.cluster.share_devices:
        yield Finding("rollout.weights", "ipc needs engines and learners on one device; write auto, or share devices")


def _judges(job: Job) -> Iterator[Finding]:
    """Local models and templates that the annotator's file names."""
    if job.annotator.file is None:
        return
    for name, annotator in load_service(Path(job.annotator.file)).annotators.items():
        for key in ("model", "template"):
            value = getattr(annotator.judge, key, None)
            if isinstance(value, str) and value.startswith((".", "/", "~")) and not Path(value).exists():
                text = f"{key} of {name} is {value}, which does not exist; correct it in {job.annotator.file}"
                yield Finding("annotator.file", text)
