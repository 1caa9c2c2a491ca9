"""What a stage's output depends on, so that it runs again exactly when that changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from rayalign.config import DataConfig, Job, Reference, SourceConfig, StageSection, registry_files
from rayalign.pipeline.kind import StageKind, kind_of, kinds_of
from rayalign.pipeline.outputs import output_path, stage_folder
from rayalign.storage.summary import read_done

_INPUT = "input."


_ENVIRONMENT = ("environment", "max_turns")


def stage_fields(job: Job) -> dict[str, dict[str, Any]]:
    """What each stage's output depends on, by dotted key; `input.NAME` is the hash of a stage that it reads.

    A stage's own name, placement, logging and trackers are not part of it.
    """
    fields: dict[str, dict[str, Any]] = {}
    hashes: dict[str, str] = {}
    for name, stage in job.stages.items():
        fields[name] = _fields(job, stage, hashes)
        hashes[name] = fields_hash(fields[name])
    return fields


def stage_hashes(job: Job) -> dict[str, str]:
    """The content hash of each stage."""
    return {name: fields_hash(fields) for name, fields in stage_fields(job).items()}


def fields_hash(fields: Mapping[str, Any]) -> str:
    """The hash of one stage's fields."""
    return hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=16).hexdigest()


def stage_states(job: Job) -> dict[str, str]:
    """For each stage `finished`, or `will run: ` and why."""
    states = {name: _state(read_done(stage_folder(job, name)), fields) for name, fields in stage_fields(job).items()}
    for reference in _roles_read(job):
        if states[reference.stage] == "finished" and not output_path(job, str(reference)).exists():
            states[reference.stage] = f"will run: its {reference.role} is missing"
    return states


def unfinished(job: Job) -> dict[str, StageKind[Any]]:
    """The kinds of the stages that will run, by name."""
    states = stage_states(job)
    return {name: kind for name, kind in kinds_of(job).items() if states[name] != "finished"}


def _roles_read(job: Job) -> set[Reference]:
    """The outputs other than the main one that stages read; a run of an earlier version did not save them."""
    roles: set[Reference] = set()
    for stage in job.stages.values():
        roles |= {reference for _, reference in stage.references() if reference.role}
    return roles


def _state(done: Mapping[str, Any] | None, fields: Mapping[str, Any]) -> str:
    if done is None:
        return "will run: never ran"
    if done["hash"] == fields_hash(fields):
        return "finished"
    before = done.get("fields", {})
    keys = sorted(before.keys() | fields.keys())
    changed = [key for key in keys if before.get(key) != fields.get(key)]
    shown = ", ".join(map(_readable, changed[:3]))
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return f"will run: {shown}{more} changed"


def _readable(key: str) -> str:
    return f"stage {key.removeprefix(_INPUT)}" if key.startswith(_INPUT) else key


def _fields(job: Job, stage: StageSection, hashes: Mapping[str, str]) -> dict[str, Any]:
    kind = kind_of(stage)
    fields = dict(_flat(stage.model_dump(mode="json"), stage.placement))
    if kind.environment is None:
        # such a stage has the hash that it had before there were environments
        fields = {key: value for key, value in fields.items() if key not in _ENVIRONMENT}
    fields["seed"] = job.seed
    if job.chat_template is not None:
        fields["chat_template.content"] = _content(Path(job.chat_template)) or job.chat_template
    fields.update(_flat(kind.settings(), stage.placement))
    if "guards" in stage.placement:
        fields["guards"] = []  # they decide only whether a stage goes on; once they counted, and this is their hash
    fields.update(_model_contents(kind))
    if kind.data is not None or kind.sampling is not None:
        fields["rollout.context"] = job.rollout.context
    if kind.data is not None:
        fields.update(_data_contents("data", kind.data))
    for key, data, _ in kind.further_data():
        fields.update(_data_contents(key, data))
    if kind.sampling is not None:
        fields["rollout.dtype"] = job.rollout.dtype
    if kind.annotators():
        fields["annotator.url"] = job.annotator.url
        fields["annotator.file.content"] = _content(Path(job.annotator.file)) if job.annotator.file else None
    for _, reference in stage.references():
        fields[f"{_INPUT}{reference.stage}"] = hashes[reference.stage]
    return fields


def _data_contents(key: str, data: DataConfig | SourceConfig) -> dict[str, Any]:
    """The contents of the files that a data section names."""
    contents: dict[str, Any] = {}
    if data.preferences is not None:
        files = registry_files(data.preferences.file)
        contents[f"{key}.preferences.content"] = [_content(file) for file in files]
    if isinstance(data, DataConfig) and data.blend is not None:
        for number, source in enumerate(data.blend):
            contents |= _data_contents(f"{key}.blend.{number}", source)
    elif data.path:
        contents[f"{key}.content"] = _content(Path(data.path))
    return contents


_OPTIONAL = frozenset(
    {
        "near_duplicates",
        "answers",
        "beams",
        "best_of",
        "base",
        "blend",
        "by_criterion",
        "by_profile",
        "chat_template",
        "columns",
        "combine",
        "ema",
        "endpoint",
        "flip",
        "for_all",
        "last",
        "lora",
        "mix",
        "overlap",
        "pairwise",
        "phase",
        "phases",
        "precision",
        "preference",
        "preferences",
        "priority",
        "sampling",
        "sources",
        "unprompted",
    }
)
"""keys that count only where they are set: stages that finished before they existed stay finished"""


def _flat(values: Mapping[str, Any], placement: Set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of all but the placement."""
    for key, value in values.items():
        full = f"{prefix}{key}"
        if full in placement or (value is None and key in _OPTIONAL):
            continue
        if isinstance(value, dict):
            yield from _flat(value, placement, f"{full}.")
        elif isinstance(value, list):
            yield full, [_without_unset(item) for item in value]
        else:
            yield full, value


def _without_unset(item: Any) -> Any:
    """An item of a list without the optional keys that it does not set."""
    if not isinstance(item, dict):
        return item
    return {key: _without_unset(value) for key, value in item.items() if value or key not in _OPTIONAL}


def _model_contents(kind: StageKind[Any]) -> Iterator[tuple[str, str]]:
    """What lies in each local model folder that the stage reads.

    Weights are too large to be read for each check, so the size and time of each file stand for them.
    """
    for read in kind.reads():
        folder = Path(read.value)
        if not read.is_model or Reference.parse(read.value) is not None or not folder.is_dir():
            continue
        digest = hashlib.blake2b(digest_size=16)
        for file in sorted(folder.glob("*")):
            if file.is_file():
                digest.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}\n".encode())
        yield f"{read.key}.content", digest.hexdigest()


def _content(path: Path) -> str | None:
    """A digest of a data file, or of all files of a folder; None for a hub name."""
    if not path.exists():
        return None
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, hashlib.blake2b).digest())
    return digest.hexdigest()
