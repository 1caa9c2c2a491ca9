"""`rayalign rehearse`: full-size checks without a device, then the job in miniature through all that may happen."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from rayalign.config import Job, LoadedJob
from rayalign.models.configuration import read_config
from rayalign.models.miniature import shrunk, write_miniature
from rayalign.pipeline.kind import kinds_of
from rayalign.rehearsal.annotators import annotator_names, needs_stand_in, write_stand_in_service
from rayalign.rehearsal.changes import Change
from rayalign.rehearsal.devices import uses_gpus
from rayalign.rehearsal.engine_names import ask_vllm
from rayalign.rehearsal.events import Event, rehearse_events
from rayalign.rehearsal.findings import Finding
from rayalign.rehearsal.folder import RUN, prepare_folder
from rayalign.rehearsal.full_devices import check_devices
from rayalign.rehearsal.full_models import FullModels
from rayalign.rehearsal.full_rows import FullRows
from rayalign.rehearsal.full_schedule import check_memory, check_schedule
from rayalign.rehearsal.miniature import PROMPTS, Miniature, Small
from rayalign.rehearsal.report import rehearsal_folder, write_report
from rayalign.rehearsal.running import SmallRun
from rayalign.rehearsal.stand_ins import ReadModel, Standing, stand_in
from rayalign.storage.records import encode, write_jsonl

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Rehearsal:
    """What a rehearsal came to."""

    folder: Path
    changes: list[Change] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    miniature: Job | None = None
    ran: bool = False
    """whether the miniature was run"""

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found so far that would end the run."""
        return not any(finding.level == "error" for finding in self.findings)

    @property
    def passed(self) -> bool:
        """Whether the miniature was run and all went well."""
        return self.ran and self.is_sound

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count what runs inside as seconds of a part."""
        logger.info("%s ...", part)
        begin = time.monotonic()
        yield
        self.seconds[part] = time.monotonic() - begin


def rehearse(loaded: LoadedJob, *, full: bool = False, output: Path | None = None, run: bool = True) -> Rehearsal:
    """Rehearse a job that `check` has passed, and write rehearsal.json and rehearsal.diff.

    Args:
        full: counts stay as they are.
        output: folder of everything that is written; None: `rehearsal` in the job's run folder.
        run: also run the miniature, where the full-size checks find nothing; without it no rehearsal passes.

    Raises:
        InputError: the folder holds something else than a rehearsal.
    """
    folder = (output or rehearsal_folder(loaded.job)).resolve()
    prepare_folder(folder, loaded.job)
    rehearsal = Rehearsal(folder)
    with rehearsal.timed("checks at full size"):
        standing = stand_in(loaded.job, folder)
        rehearsal.changes += standing.changes
        rows = check_full_size(LoadedJob(standing.job, loaded.origins, loaded.path), standing, rehearsal.findings)
    rehearsal.changes += _lasting(loaded.job, standing)
    if rehearsal.is_sound:
        with rehearsal.timed("names on the engine's side"):
            names = ask_vllm(standing.job, standing.models, folder / "names")
            rehearsal.findings += names.findings
            rehearsal.changes += names.changes
    if rehearsal.is_sound:
        with rehearsal.timed("miniature models and rows"):
            small = _write_small(standing, rows, folder, rehearsal.changes)
            builder = Miniature(standing.job, small, fold=not full)
            rehearsal.miniature = builder.build(RUN, str(folder))
            rehearsal.changes += builder.changes
    if rehearsal.is_sound and run:
        with rehearsal.timed("the miniature's run"):
            _run(rehearsal)
    write_report(
        folder,
        loaded.job,
        full=full,
        ran=rehearsal.ran,
        changes=rehearsal.changes,
        findings=rehearsal.findings,
        events=rehearsal.events,
        seconds=rehearsal.seconds,
    )
    return rehearsal


def check_full_size(loaded: LoadedJob, standing: Standing, findings: list[Finding]) -> FullRows:
    """Everything that folding and shrinking hide; the rows as they were read.

    Args:
        findings: takes in what is found, with models by their own names.
    """
    rows = FullRows(loaded)
    stand_in_names = {model.folder: model.name for model in standing.models.values() if model.substituted}
    for finding in _full_size(loaded, standing, rows):
        text = finding.text
        for folder, name in stand_in_names.items():
            text = text.replace(folder, name)
        findings.append(replace(finding, text=text))
    return rows


def _full_size(loaded: LoadedJob, standing: Standing, rows: FullRows) -> Iterator[Finding]:
    yield from FullModels(loaded.job, standing.models).check()
    yield from check_devices(loaded.job)
    yield from check_memory(loaded)
    yield from rows.check()
    totals = {key: choice.total for key, choice in rows.choices.items() if key not in standing.made_rows}
    yield from check_schedule(loaded, totals)


def _write_small(standing: Standing, rows: FullRows, folder: Path, changes: list[Change]) -> Small:
    """The small models, the chosen rows and the annotators, where they are needed."""
    models = {}
    for number, (name, model) in enumerate(standing.models.items()):
        target = folder / "models" / str(number)
        models[name] = str(target)
        changes.append(_shrink(model, standing.job.chat_template, target))
    sections = {}
    counts = {}
    for key, choice in rows.choices.items():
        if key in standing.made_rows:
            counts[key] = min(choice.total, PROMPTS)
            continue
        counts[key] = len(choice.examples)
        target = folder / "chosen" / key
        split = _split(standing.job, key)
        target.mkdir(parents=True)
        write_jsonl(target / f"{split}.jsonl", map(encode, choice.examples))
        sections[key] = ("records", str(target))
        kinds = ", ".join(f"{count} {kind}" for kind, count in choice.kinds.items() if count)
        text = f"{choice.total} rows -> {len(choice.examples)} ({kinds})"
        changes.append(Change("shrunk", f"stages.{key}", text))
    return Small(models, sections, counts, _annotators(standing.job, models, folder))


def _split(job: Job, key: str) -> str:
    """The split of a data section, which names its file."""
    stage, _, section = key.partition(".")
    kind = kinds_of(job)[stage]
    sections = {"data": kind.data} | {name: data for name, data, _ in kind.further_data()}
    data = sections[section]
    assert data is not None, "rows were read of this section"
    return "train" if data.split == "corpus" else data.split


def _shrink(model: ReadModel, template: str | None, folder: Path) -> Change:
    """Write the small model of one from elsewhere."""
    from rayalign.data.chat import load_tokenizer

    config = read_config(model.folder)
    tokenizer = load_tokenizer(model.folder, dialogue=False, template=template)
    small = shrunk(config, len(tokenizer))
    sizes = config.get_text_config()
    count = write_miniature(small, tokenizer, folder, scalar=model.scalar, pairwise=model.pairwise)
    few = small.get_text_config()
    text = (
        f"{config.model_type}, {sizes.num_hidden_layers} layers of {sizes.hidden_size} -> {few.num_hidden_layers} of "
        f"{few.hidden_size}, {sizes.num_attention_heads} heads of {sizes.num_key_value_heads} groups -> "
        f"{few.num_attention_heads} of {few.num_key_value_heads}, {count / 1e6:.1f}M random weights"
    )
    return Change("shrunk", model.name, text)


def _annotators(job: Job, models: dict[str, str], folder: Path) -> str | None:
    """The file of the miniature's own service; None where the job's own serves."""
    if not needs_stand_in(job):
        return None
    from rayalign.data.chat import load_tokenizer

    judge, source = folder / "models" / "judge", next(iter(models.values()))
    tokenizer = load_tokenizer(source, dialogue=False, template=job.chat_template)
    write_miniature(shrunk(read_config(source), len(tokenizer)), tokenizer, judge, scalar=True)
    file = folder / "annotators.yaml"
    write_stand_in_service(annotator_names(job), str(judge), job.rollout.context, file)
    return str(file)


def _lasting(job: Job, standing: Standing) -> Iterator[Change]:
    """What is kept as it is, and what a miniature can never show."""
    for name, kind in kinds_of(job).items():
        roles = ", ".join(need.role for need in kind.roles(job)) or "no role"
        more = ""
        if kind.training is not None:
            stage = kind.training.stage
            more = f", {stage.algorithm['name']}, ZeRO stage {stage.learner.zero_stage}, {stage.learner.precision}"
            more += f", max_staleness {stage.max_staleness}" if stage.online else ""
        yield Change("kept", f"stages.{name}", f"{kind.stage.kind} with {roles}{more}")
    for model in standing.models.values():
        if model.substituted:
            yield Change("not covered", model.name, "its weights, its own template and its vocabulary")
    if uses_gpus(job):
        yield Change("substituted", "collectives", "NCCL by gloo")
        yield Change("substituted", "attention", "flash attention by torch's own")
        yield Change("substituted", "devices", "GPUs by logical devices of the same numbers; roles compute on the CPU")
        yield Change("not covered", "devices", "kernels, throughput, and rounding of GPUs")
    if job.cluster.share_devices:
        yield Change("substituted", "sleep", "engines and learners leave the devices in the ledger alone")


def _run(rehearsal: Rehearsal) -> None:
    """Run the miniature, whose job is written as any other."""
    assert rehearsal.miniature is not None, "it is built before it runs"
    file = rehearsal.folder / "miniature.yaml"
    text = yaml.safe_dump(rehearsal.miniature.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    file.write_text(text, encoding="utf-8")
    rehearsal.ran = True
    outcome = rehearse_events(SmallRun(rehearsal.miniature, file))
    rehearsal.events += outcome.events
    rehearsal.findings += outcome.findings
