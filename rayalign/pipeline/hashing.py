"""What a stage's output depends on, so that it runs again exactly when that changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rayalign.algorithms.base import load
from rayalign.config import AnnotateStage, EvaluateStage, GenerateStage, Job, Stage, TrainStage
from rayalign.storage.summary import read_done

_HOW = ("micro_tokens", "chunk_logits", "zero_stage", "zero_live_parameters", "gradient_checkpointing", "attention")
PLACEMENT = frozenset(
    ["roles", "keep", "checkpoint_every", *(f"{part}.{key}" for part in ("learner", "critic_learner") for key in _HOW)]
)
"""keys that say where and how a stage runs, never what it computes"""
REFERENCE = "stage:"
ANNOTATOR = "annotator:"


def stage_fields(job: Job) -> dict[str, dict[str, Any]]:
    """What each stage's output depends on, by dotted key; `input.NAME` is the hash of a stage that it reads.

    A stage's own name, placement, logging and trackers are not part of it.
    """
    found: dict[str, dict[str, Any]] = {}
    hashes: dict[str, str] = {}
    for name, stage in job.stages.items():
        found[name] = _fields(job, stage, hashes)
        hashes[name] = fields_hash(found[name])
    return found


def stage_hashes(job: Job) -> dict[str, str]:
    """The content hash of each stage."""
    return {name: fields_hash(fields) for name, fields in stage_fields(job).items()}


def fields_hash(fields: Mapping[str, Any]) -> str:
    """The hash of one stage's fields."""
    return hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=16).hexdigest()


def stage_states(job: Job) -> dict[str, str]:
    """For each stage `finished`, or `will run: ` and why."""
    folder = Path(job.output) / job.name / "stages"
    return {name: _state(read_done(folder / name), fields) for name, fields in stage_fields(job).items()}


def stages_read(stage: Stage) -> list[str]:
    """The names of the stages whose output it reads."""
    texts = [v for v in stage.model_dump().values() if isinstance(v, str)]
    texts += stage.models.values() if isinstance(stage, EvaluateStage) else []
    return [t.removeprefix(REFERENCE) for t in texts if t.startswith(REFERENCE)]


def asks_annotator(stage: Stage) -> bool:
    """Whether the stage needs the annotator service."""
    values = stage.model_dump()
    return values.get("annotator") is not None or str(values.get("reward")).startswith(ANNOTATOR)


def _state(done: Mapping[str, Any] | None, fields: Mapping[str, Any]) -> str:
    if done is None:
        return "will run: never ran"
    if done["hash"] == fields_hash(fields):
        return "finished"
    before = done.get("fields", {})
    changed = sorted(k for k in before.keys() | fields.keys() if before.get(k) != fields.get(k))
    shown = [f"stage {k.removeprefix('input.')}" if k.startswith("input.") else k for k in changed]
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return f"will run: {', '.join(shown[:3])}{more} changed"


def _fields(job: Job, stage: Stage, hashes: Mapping[str, str]) -> dict[str, Any]:
    values = dict(_flat(stage.model_dump(mode="json")))
    values["seed"] = job.seed
    if isinstance(stage, TrainStage):
        algorithm = load(stage.algorithm)
        values.update(
            _flat({"algorithm": {**algorithm.config.model_dump(mode="json"), "revision": algorithm.revision}})
        )
    if not isinstance(stage, AnnotateStage):
        values["rollout.context"] = job.rollout.context
    if isinstance(stage, GenerateStage | EvaluateStage) or (isinstance(stage, TrainStage) and stage.online):
        values["rollout.dtype"] = job.rollout.dtype
    if asks_annotator(stage):
        values["annotator.url"] = job.annotator.url
        values["annotator.file.content"] = _content(Path(job.annotator.file)) if job.annotator.file else None
    for name in stages_read(stage):
        values[f"input.{name}"] = hashes[name]
    if not isinstance(stage, AnnotateStage) and stage.data.path:
        values["data.content"] = _content(Path(stage.data.path))
    return values


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        full = f"{prefix}{key}"
        if full in PLACEMENT:
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{full}.")
        else:
            yield full, value


def _content(path: Path) -> str | None:
    """A digest of a data file, or of all files of a folder; None for a hub name."""
    if not path.exists():
        return None
    digest = hashlib.blake2b(digest_size=16)
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, hashlib.blake2b).digest())
    return digest.hexdigest()
