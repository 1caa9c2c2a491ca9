"""What can be known to be wrong with a job before anything starts: references, arithmetic, devices, models, data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rayalign.cluster.turns import TURNS, Turn
from rayalign.config import Job, LoadedJob, Reference, nearest
from rayalign.data.templates import has_template, template_problem
from rayalign.errors import InputError
from rayalign.models.catalogue import PRESETS, READS_PAIRS
from rayalign.pipeline.annotators import annotator_problems
from rayalign.pipeline.kind import ADAPTER, AS_SOURCE, PAIRWISE_MODEL, Problem, Read, StageKind, kinds_of
from rayalign.pipeline.machine import Machine, planned_machine
from rayalign.pipeline.plan import Plan, StagePlan, plan, size
from rayalign.pipeline.stage_rows import stage_paths
from rayalign.pipeline.tracking import tracking_problems
from rayalign.rollout.environment import load_environment
from rayalign.weights.headers import prove_folder

REHEARSE = "try it in small on this machine with `rayalign rehearse`"
_ROUND = re.compile(r"@\d+")
Kinds = Mapping[str, StageKind[Any]]


def check(loaded: LoadedJob) -> None:
    """Everything that needs no start, no model and no network; of local data the first rows.

    Raises:
        InputError: one line for each problem.
    """
    job = loaded.job
    kinds = kinds_of(job)
    problems = [*_cluster(job), *_template(job), *tracking_problems(job.tracking), *_references(job, kinds)]
    for name, kind in kinds.items():
        problems += _stage_problems(f"stages.{name}", job, kind)
    machine = planned_machine(job.cluster)
    if not problems:  # a plan can only be made of a job that is otherwise sound
        planned = plan(job, machine)
        problems += devices(planned, machine) if machine else []
        problems += crowded_devices(planned)
    refuse(loaded, problems)


def refuse(loaded: LoadedJob, problems: Iterable[Problem]) -> None:
    """Raise an InputError of one line for each problem, if there is any."""
    lines: dict[str, str] = {}
    for key, text in problems:
        line = f"{loaded.origin(key)}: {key}: {text}"
        lines.setdefault(_ROUND.sub("", line), line)  # the rounds of a loop share their problems
    if lines:
        raise InputError("\n".join(lines.values()))


def _stage_problems(prefix: str, job: Job, kind: StageKind[Any]) -> Iterator[Problem]:
    for key, text in (
        *kind.problems(),
        *kind.device_problems(job),
        *_models(kind, job.chat_template),
        *_sampling(job, kind),
        *_data(kind),
        *_environment(kind),
    ):
        yield f"{prefix}.{key}", text
    yield from annotator_problems(prefix, job, kind.annotators())


def _cluster(job: Job) -> Iterator[Problem]:
    """The devices that the job names are used, and there is one account of them."""
    cluster = job.cluster
    if cluster.share_devices and not job.rollout.gpus:
        yield "rollout.gpus", "engines that share devices use some; write 1, or set cluster.share_devices to false"
    if cluster.logical_devices and cluster.gpus is not None:
        yield "cluster.gpus", "cluster.logical_devices says how many there are; leave this out"


def _template(job: Job) -> Iterator[Problem]:
    problem = template_problem(job.chat_template) if job.chat_template else None
    if problem:
        yield "chat_template", problem


def _references(job: Job, kinds: Kinds) -> Iterator[Problem]:
    """Each `stage:` names an earlier stage whose output is what the key accepts."""
    earlier: dict[str, StageKind[Any]] = {}
    for name, kind in kinds.items():
        accepts = {read.key: read.accepts for read in (*kind.reads(), *kind.data_reads())}
        for key, reference in job.stages[name].references():
            where = f"stages.{name}.{key}"
            if reference.stage in earlier:
                for text in _unfit(reference, earlier, accepts.get(key)):
                    yield where, text
            elif reference.stage in kinds:
                yield where, f"stage {reference.stage!r} does not come before stage {name!r}; put it above"
            else:
                yield where, f"there is no stage {reference.stage!r}; {nearest(reference.stage, list(earlier))}"
        earlier[name] = kind


def _unfit(reference: Reference, kinds: Kinds, accepts: tuple[str, ...] | None) -> Iterator[str]:
    outputs = kinds[reference.stage].outputs()
    if reference.role not in outputs:
        roles = [role for role in outputs if role]
        remedy = nearest(reference.role, roles, "it makes:") if roles else f"write stage:{reference.stage}"
        yield f"stage {reference.stage} makes no {reference.role}; {remedy}"
        return
    what = _what(reference, kinds)
    if accepts is not None and what is not None and what not in accepts:
        yield f"{reference} makes {what}; expected a stage that makes {' or '.join(accepts)}"


def _what(reference: Reference | None, kinds: Kinds) -> str | None:
    """What a reference stands for; None for a model from elsewhere, and for a wrong reference."""
    if reference is None or reference.stage not in kinds:
        return None
    kind = kinds[reference.stage]
    output = kind.outputs().get(reference.role)
    if output is not None and output.what == AS_SOURCE:
        return _what(Reference.parse(kind.source(reference.role) or ""), kinds)
    return output.what if output else None


def _models(kind: StageKind[Any], template: str | None) -> Iterator[Problem]:
    """A preset exists; a folder holds a model and a chat template; a hub name is taken on trust."""
    for read in kind.reads():
        if read.is_model:
            yield from ((read.key, text) for text in _model(read, template))


def _model(read: Read, template: str | None) -> Iterator[str]:
    model = read.value
    presets = [f"preset:{name}" for name in PRESETS]
    if read.preset and not model.startswith("preset:"):
        yield f"{model} is not a preset; this stage makes its model from one of {', '.join(presets)}"
    elif read.preset and model not in presets:
        yield f"there is no preset {model!r}; {nearest(model, presets)}"
    elif not read.preset and model.startswith("preset:"):
        yield f"{model} is no trained model; add a pretrain stage that starts from it, and name that stage here"
    elif not read.preset and Reference.parse(model) is None:
        local = Path(model).exists() or model.startswith((".", "/", "~"))
        adapter = ADAPTER in read.accepts and (Path(model) / "adapter_config.json").is_file()
        yield from _folder(Path(model), read.accepts, template) if local and not adapter else ()


def _folder(folder: Path, accepts: tuple[str, ...], template: str | None) -> Iterator[str]:
    if not (folder / "config.json").is_file():
        yield f"{folder} holds no model: there is no config.json; give a folder written by save_pretrained"
        return
    try:
        prove_folder(folder)
    except InputError as error:
        yield str(error)
        return
    compares = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(READS_PAIRS, False)
    if compares and PAIRWISE_MODEL not in accepts:
        yield f"{folder} holds {PAIRWISE_MODEL}; expected {' or '.join(accepts)}"
    elif not compares and accepts == (PAIRWISE_MODEL,):
        yield f"{folder} does not hold {PAIRWISE_MODEL}: its config.json has no {READS_PAIRS}; train one on pairs"
    if template is None and not has_template(folder):
        yield (
            f"model without chat template: {folder} has none in tokenizer_config.json and no chat_template.jinja; "
            "use the instruction-tuned model, or name a template as `chat_template` of the job: default, alpaca, "
            "chatml or a file"
        )


def _sampling(job: Job, kind: StageKind[Any]) -> Iterator[Problem]:
    context = job.rollout.context
    if kind.sampling is not None and kind.sampling.max_tokens >= context:
        longest = kind.sampling.max_tokens
        yield "sampling.max_tokens", f"{longest} tokens leave no room for a prompt in rollout.context {context}"


def _environment(kind: StageKind[Any]) -> Iterator[Problem]:
    if kind.environment is None:
        return
    try:
        load_environment(kind.environment)
    except InputError as error:
        yield "environment", str(error)


def _data(kind: StageKind[Any]) -> Iterator[Problem]:
    from rayalign.data import readers

    sections = list(kind.further_data())
    if kind.data is not None and kind.data_use is not None:
        sections.insert(0, ("data", kind.data, kind.data_use))
    for key, data, use in sections:
        earlier = list(stage_paths(data, key))
        if earlier and (key != "data" or use != "prompts"):
            yield earlier[0][0], "a stage gives prompts alone, for `data` that are read as such; name it as examples"
        if earlier:
            continue
        try:
            readers.check(data, use=use)
        except InputError as error:
            yield key, str(error)


def devices(planned: Plan, machine: Machine, *, remedy: str = REHEARSE) -> Iterator[Problem]:
    """Stages still to run that ask for more than a machine, or a cluster as large as one, has."""
    for stage in planned.stages:
        if stage.state != "finished":
            yield from ((f"stages.{stage.name}.roles", text) for text in _oversize(stage, machine, remedy))


def crowded_devices(planned: Plan) -> Iterator[Problem]:
    """Stages still to run that share devices, one of which is too small for one of their turns."""
    for stage in planned.stages:
        if stage.shared and stage.state != "finished":
            yield from ((f"stages.{stage.name}.roles", text) for text in _crowded(stage, planned.device_bytes))


def _crowded(stage: StagePlan, capacity: int) -> Iterator[str]:
    for turn in TURNS:
        for device, claim in stage.turn_memory(turn).items():
            if claim > capacity:
                yield (
                    f"in the {turn} turn {device} must hold {size(claim)} ({_shares(stage, device, turn)}), but it has "
                    f"{size(capacity)}; use more devices, or smaller models, micro_tokens or rollout.cache_bytes"
                )
                return


def _shares(stage: StagePlan, device: str, turn: Turn) -> str:
    """What each role has on a device in a turn."""
    shares = []
    for role in stage.roles:
        actors = role.device_numbers.count(device.removeprefix("gpu:"))
        memory = actors * role.memory_in(turn)
        if memory:
            shares.append(f"{role.role} {size(memory)}")
    return ", ".join(shares)


def _oversize(stage: StagePlan, machine: Machine, remedy: str) -> Iterator[str]:
    if stage.devices > machine.gpus:
        requested = ", ".join(f"{r.role} {r.actors} x {r.gpus:g}" for r in stage.roles if r.gpus)
        yield (
            f"asks for {stage.devices} devices ({requested}), but there are {machine.gpus}; ask for fewer, "
            f"share them by fractions, or {remedy}"
        )
    if stage.cpus > machine.cpus + 0.01:
        requested = ", ".join(f"{r.role} {r.actors} x {r.cpus:g}" for r in stage.roles)
        yield (
            f"asks for {stage.cpus:g} cpus ({requested}), but there are {machine.cpus:g}; leave cpus out to share them"
        )
