"""What a rehearsal cannot reach, and what stands in its place: configurations, tokenizers, rows, endpoints.

The job that comes out is the same at full size, and can be checked on this machine. A local path is never replaced:
where something is wrong with it, the checks say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rayalign.config import DataConfig, Job, Reference
from rayalign.config.data_sections import MADE_HERE
from rayalign.data.chat import load_tokenizer, train_tokenizer
from rayalign.data.files import is_hub_name, rows
from rayalign.data.readers import Use
from rayalign.errors import InputError
from rayalign.models.catalogue import family_of
from rayalign.models.miniature import catalogue_config, is_scalar, reachable_config, write_stand_in
from rayalign.pipeline.kind import ADAPTER, LANGUAGE_MODEL, PAIRWISE_MODEL, StageKind, kinds_of
from rayalign.pipeline.stage_rows import stage_paths
from rayalign.rehearsal.changes import Change
from rayalign.rehearsal.edits import Tree, as_job, as_tree, renamed, section_at
from rayalign.rehearsal.made_rows import ROWS, RowMaker, makeable, texts
from rayalign.storage.records import write_jsonl

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VOCABULARY = 512
"""pieces of the tokenizer that stands for one out of reach"""


@dataclass(slots=True)
class ReadModel:
    """A model from elsewhere that a job names."""

    name: str
    scalar: bool
    """it has one output in the place of a language model's head"""
    pairwise: bool = False
    folder: str = ""
    """where its configuration and its tokenizer are: itself, or a stand-in"""
    substituted: bool = False


@dataclass(slots=True)
class Standing:
    """A job of which everything is at hand."""

    job: Job
    models: Mapping[str, ReadModel]
    """by the name in the standing job"""
    made_rows: frozenset[str] = frozenset()
    """`STAGE.KEY` of the data whose rows were made"""
    changes: list[Change] = field(default_factory=list)


def stand_in(job: Job, folder: Path) -> Standing:
    """The job with a stand-in for each model, data set and endpoint that is out of reach, written into a folder."""
    tree = as_tree(job)
    changes: list[Change] = []
    models = _place_models(job, folder / "stand_ins", changes)
    names = {model.name: model.folder for model in models if model.substituted}
    tree["stages"] = renamed(tree["stages"], names)
    made_rows = frozenset(_place_rows(job, tree, folder / "rows", changes))
    _place_endpoints(tree, changes)
    return Standing(as_job(tree), {model.folder: model for model in models}, made_rows, changes)


def read_models(job: Job) -> list[ReadModel]:
    """The folders and hub names that a job's stages start from, each once; no presets and no adapters."""
    models: dict[str, ReadModel] = {}
    for kind in kinds_of(job).values():
        for read in kind.reads():
            elsewhere = read.is_model and not read.preset and Reference.parse(read.value) is None
            if not elsewhere or read.accepts == (ADAPTER,):
                continue
            is_language = LANGUAGE_MODEL in read.accepts
            model = models.setdefault(read.value, ReadModel(read.value, scalar=not is_language))
            model.scalar = model.scalar and not is_language
            model.pairwise = model.pairwise or read.accepts == (PAIRWISE_MODEL,)
    return list(models.values())


def _place_models(job: Job, folder: Path, changes: list[Change]) -> list[ReadModel]:
    models = read_models(job)
    for number, model in enumerate(models):
        if Path(model.name).is_dir():
            model.folder = model.name
            config = reachable_config(model.name)
            model.scalar = model.scalar or (config is not None and is_scalar(config))
            continue
        _place_model(model, job.chat_template, folder / str(number), changes)
    return models


def _place_model(model: ReadModel, template: str | None, folder: Path, changes: list[Change]) -> None:
    """A hub name: itself where its configuration and its tokenizer can be read, else a folder with what is lacking."""
    config, tokenizer = reachable_config(model.name), _reachable_tokenizer(model.name, template)
    if config is not None and tokenizer is not None:
        model.folder = model.name
        model.scalar = model.scalar or is_scalar(config)
        return
    model.folder, model.substituted = str(folder), True
    if config is None:
        config = catalogue_config(model.name)
        source = "from the catalogue" if family_of(model.name) else "of a Llama of 7B, as it is not in the catalogue,"
        changes.append(Change("substituted", model.name, f"configuration {source} since the hub is out of reach"))
    if tokenizer is None:
        tokenizer = train_tokenizer(iter(texts()), VOCABULARY, template)
        changes.append(
            Change(
                "substituted",
                model.name,
                "tokenizer and chat template by those of rayalign (byte pieces), since the hub is out of reach",
            )
        )
    write_stand_in(config, tokenizer, folder)


def _reachable_tokenizer(name: str, template: str | None) -> PreTrainedTokenizerBase | None:
    try:
        return load_tokenizer(name, dialogue=False, template=template)
    except InputError:
        return None


def data_sections(kind: StageKind) -> Iterator[tuple[str, DataConfig, Use]]:
    """Key, section and use of all data that a stage reads from outside the job."""
    if kind.data is not None and kind.data_use is not None:
        yield "data", kind.data, kind.data_use
    yield from kind.further_data()


def from_files(data: DataConfig) -> bool:
    """Whether rows come from files or the hub, not from a format that makes its own or from an earlier stage."""
    if data.blend is not None:
        return any(source.format not in MADE_HERE for source in data.blend)
    return data.format not in MADE_HERE and not list(stage_paths(data))


def _place_rows(job: Job, tree: Tree, folder: Path, changes: list[Change]) -> Iterator[str]:
    """Write rows for the data out of reach, and name them in the tree."""
    number = 0
    for name, kind in kinds_of(job).items():
        for key, data, use in data_sections(kind):
            number += 1
            if not from_files(data) or _reachable(data):
                continue
            target = folder / f"{name}-{key}"
            form = makeable(data.blend[0].format if data.blend else data.format, use)
            reserve = kind.sampling.max_tokens if kind.sampling else 0
            room = (job.rollout.context - reserve) // 2
            target.mkdir(parents=True, exist_ok=True)
            write_jsonl(target / f"{data.split}.jsonl", RowMaker(number, room).rows(form))
            holder, last = section_at(tree["stages"][name], key)
            holder[last] = at_folder(holder[last], form, target)
            path = data.path or "the blend"
            text = f"{ROWS} made rows of the format {form} in the place of {path}, which is out of reach"
            changes.append(Change("substituted", f"stages.{name}.{key}", text))
            yield f"{name}.{key}"


_WHOLE: Tree = {"columns": {}, "blend": None, "limit": None, "phases": None, "phase": None}
"""of a data section that takes every row as it is"""


def at_folder(data: Tree, form: str, folder: Path) -> Tree:
    """A data section that reads all rows of a folder."""
    return {**data, "format": form, "path": str(folder), **_WHOLE}


def _reachable(data: DataConfig) -> bool:
    """False for a hub name whose first row cannot be read."""
    if data.blend is not None:
        return all(_reachable(DataConfig(format=s.format, path=s.path, split=s.split)) for s in data.blend)
    if data.path is None or not is_hub_name(data.path):
        return True
    try:
        return next(islice(rows(data.path, data.split), 1), None) is not None
    except InputError:
        return False


def _place_endpoints(tree: Tree, changes: list[Change]) -> None:
    """Models over HTTP: the stage's own model draws in their place."""
    for name, stage in tree["stages"].items():
        sources = stage.get("sources")
        for place, source in enumerate(sources if isinstance(sources, list) else ()):
            if source.get("endpoint"):
                model = source["endpoint"]["model"]
                source["endpoint"] = None
                source["name"] = source["name"] or model
                text = f"{model} over HTTP by the stage's own model; nothing is paid for"
                changes.append(Change("substituted", f"stages.{name}.sources.{place}", text))
        if stage.get("endpoint"):
            reference = Reference.parse(stage["examples"])
            assert reference is not None, "check has proven that it names a stage"
            stage["model"], stage["endpoint"] = tree["stages"][reference.stage]["model"], None
            changes.append(Change("substituted", f"stages.{name}.endpoint", "by the model that drew the examples"))
