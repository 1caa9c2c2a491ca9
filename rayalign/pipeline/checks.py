"""What can be known to be wrong with a job before anything starts: references, arithmetic, devices, models, data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rayalign.algorithms.base import Algorithm, load
from rayalign.config import (
    AnnotateStage,
    EvaluateStage,
    GenerateStage,
    Job,
    LoadedJob,
    PretrainStage,
    Stage,
    TrainStage,
    nearest,
)
from rayalign.errors import InputError
from rayalign.models.catalogue import PRESETS
from rayalign.pipeline.annotators import annotator_problems
from rayalign.pipeline.hashing import REFERENCE
from rayalign.pipeline.machine import Machine, planned_machine
from rayalign.pipeline.plan import Plan, candidates_per_prompt, data_use, plan, role_models

AREAS = {
    "reward": ("mean", "std"),
    "kl": ("reference", "beta"),
    "policy": ("entropy", "clip_fraction", "approx_kl", "ratio_min", "ratio_max"),
    "critic": ("explained_variance",),
    "rollout": ("eos_rate", "length_p50", "length_p95", "tokens_per_second", "mismatch_k3", "mismatch_max", "ess"),
    "loss": ("policy", "critic"),
    "eval": ("loss",),
}
METRICS = tuple(f"{area}/{name}" for area, names in AREAS.items() for name in names)
"""what a guard can watch whatever the algorithm; an algorithm reports others in the same areas"""

Problem = tuple[str, str]
"""dotted key, and what is wrong with it"""
REHEARSE = "set cluster.gpus for a rehearsal on logical devices"


def check(loaded: LoadedJob) -> None:
    """Everything that needs no start, no model and no network; of local data the first rows.

    Raises:
        InputError: one line for each problem.
    """
    job = loaded.job
    algorithms: dict[str, Algorithm[Any]] = {}
    found = [*_load_algorithms(job, algorithms), *_references(job, algorithms)]
    for name, stage in job.stages.items():
        key = f"stages.{name}"
        found += [*_models(key, stage), *_sampling(key, job, stage), *_data(key, stage, algorithms.get(name))]
        if isinstance(stage, TrainStage) and name in algorithms:
            found += [
                *_roles(key, stage, algorithms[name]),
                *_batch(key, stage, algorithms[name]),
                *_guards(key, stage),
                *_determinism(key, stage),
            ]
        found += annotator_problems(key, job, stage)
        if isinstance(stage, EvaluateStage):
            found += _evaluation(key, stage)
    machine = planned_machine(job.cluster)
    # a plan can only be made of a job that is otherwise sound
    refuse(loaded, found or list(devices(plan(job, machine), machine) if machine else ()))


def refuse(loaded: LoadedJob, found: Iterable[Problem]) -> None:
    """Raise an InputError of one line for each problem, if there is any."""
    lines = [f"{loaded.origin(key)}: {key}: {text}" for key, text in dict.fromkeys(found)]
    if lines:
        raise InputError("\n".join(lines))


def _load_algorithms(job: Job, algorithms: dict[str, Algorithm[Any]]) -> Iterator[Problem]:
    for name, stage in job.stages.items():
        if isinstance(stage, TrainStage):
            try:
                algorithms[name] = load(stage.algorithm)
            except InputError as error:
                yield from ((f"stages.{name}.algorithm", line) for line in str(error).splitlines())


def _references(job: Job, algorithms: dict[str, Algorithm[Any]]) -> Iterator[Problem]:
    """Each `stage:` names an earlier stage whose output is what the key wants."""
    made: dict[str, str] = {}
    for name, stage in job.stages.items():
        for key, model, wanted in _wants(f"stages.{name}", stage, algorithms.get(name)):
            target = model.removeprefix(REFERENCE)
            if target == model:
                continue
            if target in made and made[target] not in wanted:
                yield key, f"{model} makes {made[target]}; expected a stage that makes {' or '.join(wanted)}"
            elif target in job.stages and target not in made:
                yield key, f"stage {target!r} does not come before stage {name!r}; put it above"
            elif target not in made:
                yield key, f"there is no stage {target!r}; {nearest(target, list(made))}"
        made[name] = _makes(stage, algorithms.get(name))


def _makes(stage: Stage, algorithm: Algorithm[Any] | None) -> str:
    if isinstance(stage, TrainStage | PretrainStage):
        return "a reward model" if algorithm and algorithm.trains[0] == "reward" else "a language model"
    return {"generate": "candidates", "annotate": "comparisons"}.get(stage.kind, "figures")


def _wants(key: str, stage: Stage, algorithm: Algorithm[Any] | None) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Dotted key, its value, and what kinds of output may stand there."""
    language, reward = ("a language model",), ("a reward model",)
    if isinstance(stage, AnnotateStage):
        yield f"{key}.examples", stage.examples, ("candidates",)
    elif isinstance(stage, EvaluateStage):
        yield from ((f"{key}.models.{name}", model, language) for name, model in stage.models.items())
    else:
        trains_reward = algorithm is not None and algorithm.trains[0] == "reward"
        yield f"{key}.model", stage.model, (*language, *reward) if trains_reward else language
    others = {"reference": language, "perplexity": language, "reward": reward, "critic": (*language, *reward)}
    if isinstance(stage, TrainStage):
        scored = algorithm is not None and "scores" in algorithm.needs
        others["examples"] = ("comparisons",) if scored else ("candidates", "comparisons")
    for field, wanted in others.items():
        if (value := stage.model_dump().get(field)) is not None and not isinstance(stage, AnnotateStage):
            yield f"{key}.{field}", value, wanted


def _models(key: str, stage: Stage) -> Iterator[Problem]:
    """A preset exists; a folder holds a model and a chat template; a hub name is taken on trust."""
    for where, model, _ in _wants(key, stage, None):
        if where.endswith(".examples") or model.startswith(REFERENCE):
            continue
        if model.startswith("preset:") != isinstance(stage, PretrainStage):
            told = "is no model to start from here; only a pretrain stage takes a preset, and only a preset"
            yield where, f"{model} {told}"
        elif model.startswith("preset:"):
            if model.removeprefix("preset:") not in PRESETS:
                yield where, f"there is no preset {model!r}; {nearest(model, [f'preset:{p}' for p in PRESETS])}"
        elif Path(model).exists() or model.startswith((".", "/", "~")):
            yield from ((where, problem) for problem in _folder(Path(model)))


def _folder(folder: Path) -> Iterator[str]:
    if not (folder / "config.json").is_file():
        yield f"{folder} holds no model: there is no config.json; give a folder written by save_pretrained"
        return
    settings = folder / "tokenizer_config.json"
    inside = settings.is_file() and json.loads(settings.read_text(encoding="utf-8")).get("chat_template")
    if not inside and not (folder / "chat_template.jinja").is_file():
        yield (
            f"model without chat template: {folder} has none in tokenizer_config.json and no chat_template.jinja; "
            "use the instruction-tuned model, or put a template beside the tokenizer"
        )


def _roles(key: str, stage: TrainStage, algorithm: Algorithm[Any]) -> Iterator[Problem]:
    models, name = role_models(stage, algorithm), stage.algorithm["name"]
    for role, model in models.items():
        if model is None:
            yield f"{key}.{role}", f"{name} needs a {role} model; name a stage or a folder"
    for role in stage.roles:
        if role not in models:
            yield f"{key}.roles.{role}", f"{name} runs no {role}; its roles: {', '.join(models)}"
    if stage.online and "scores" in algorithm.needs and "reward" not in models:
        yield f"{key}.reward", f"{name} needs scores of what the policy writes; name a reward model"
    if not stage.online and algorithm.needs & {"behaviour_logprobs", "values"}:
        yield f"{key}.candidates", f"{name} trains on what the policy writes; add [{{source: live, count: 1}}]"
    elif not stage.online and "reference_logprobs" in algorithm.needs:
        yield f"{key}.algorithm", f"{name} asks for a reference, which no offline stage runs; set its KL to 0"


def _batch(key: str, stage: TrainStage, algorithm: Algorithm[Any]) -> Iterator[Problem]:
    """Whole optimizer steps of whole units on every rank."""
    count = candidates_per_prompt(stage)
    unit = {"sequence": 1, "pair": 2, "group": count or 1}[algorithm.unit]
    given = any(c.source == "dataset" for c in stage.candidates)
    for role in algorithm.trains:
        critic = role == "critic" and stage.critic_learner is not None
        where = f"{key}.{'critic_learner' if critic else 'learner'}.minibatch"
        learner = stage.critic_learner if critic and stage.critic_learner else stage.learner
        ranks = stage.roles[role].actors if role in stage.roles else 1
        if learner.minibatch % (unit * ranks):
            split = f"{ranks} ranks x {unit} samples that stay together = {unit * ranks}"
            near = _near(learner.minibatch, unit * ranks)
            yield where, f"indivisible batch: {learner.minibatch} is not a multiple of {split}; {near}"
        # how many candidates a data set has for each prompt is known only later
        elif stage.online and not given and stage.prompts * count % learner.minibatch:
            yield where, _indivisible(stage.prompts, count, learner.minibatch, unit * ranks)


def _indivisible(prompts: int, count: int, minibatch: int, step: int) -> str:
    samples = prompts * count
    fitting = [m for m in range(step, samples + 1, step) if samples % m == 0]
    nearest = f"minibatch {min(fitting, key=lambda m: abs(m - minibatch))}, or " if fitting else ""
    return (
        f"indivisible batch: {prompts} prompts x {count} candidates = {samples} samples, "
        f"which is {samples / minibatch:.2f} minibatches of {minibatch}; take {nearest}"
        f"prompts {_near(prompts, minibatch // math.gcd(minibatch, count)).removeprefix('take ')}"
    )


def _near(value: int, step: int) -> str:
    below, above = value // step * step, (value // step + 1) * step
    return f"take {below} or {above}" if below else f"take {above}"


def _sampling(key: str, job: Job, stage: Stage) -> Iterator[Problem]:
    if not isinstance(stage, GenerateStage | EvaluateStage) and not (isinstance(stage, TrainStage) and stage.online):
        return
    sampling = stage.sampling
    if sampling.max_tokens >= job.rollout.context:
        told = f"tokens leave no room for a prompt in rollout.context {job.rollout.context}"
        yield f"{key}.sampling.max_tokens", f"{sampling.max_tokens} {told}"
    if isinstance(stage, TrainStage) and (sampling.top_p < 1.0 or sampling.top_k or not sampling.temperature):
        yield (
            f"{key}.sampling",
            "training needs the log-probs of the distribution that was sampled from, which cut tails do not have; "
            "take top_p 1, top_k 0 and a temperature above 0",
        )


def _guards(key: str, stage: TrainStage) -> Iterator[Problem]:
    for i, guard in enumerate(stage.guards):
        where = f"{key}.guards.{i}"
        if guard.above is None and guard.below is None:
            yield where, "a guard needs a limit; give above or below"
        near = get_close_matches(guard.metric, METRICS, n=1, cutoff=0.8)
        area = guard.metric.partition("/")[0]
        if guard.metric not in METRICS and (near or area not in AREAS):
            yield f"{where}.metric", f"{guard.metric!r} is not a metric; {nearest(guard.metric, METRICS)}"


def _determinism(key: str, stage: TrainStage) -> Iterator[Problem]:
    if stage.deterministic and stage.max_staleness:
        told = "overlaps writing with updates, which deterministic: true forbids; take 0"
        yield f"{key}.max_staleness", f"{stage.max_staleness} {told}"


def _evaluation(key: str, stage: EvaluateStage) -> Iterator[Problem]:
    names = [*stage.models, *stage.baselines]
    for name in stage.against:
        if name not in names:
            yield f"{key}.against", f"{name!r} is neither in models nor in baselines; {nearest(name, names)}"
    if stage.metric == "reward" and stage.reward is None:
        yield f"{key}.reward", "the metric reward needs a reward model; name a stage or a folder"


def _data(key: str, stage: Stage, algorithm: Algorithm[Any] | None) -> Iterator[Problem]:
    from rayalign.data import readers

    use = data_use(stage, algorithm)
    if isinstance(stage, TrainStage) and stage.online and stage.examples:
        yield f"{key}.examples", "an online stage takes its prompts from data; leave examples or the candidates out"
    if isinstance(stage, AnnotateStage) or use is None:
        return
    try:
        readers.check(stage.data, use=use)
    except InputError as error:
        yield f"{key}.data", str(error)


def devices(planned: Plan, machine: Machine, *, remedy: str = REHEARSE) -> Iterator[Problem]:
    """Stages still to run that ask for more than a machine, or a cluster as large as one, has."""
    for stage in planned.stages:
        if stage.state == "finished":
            continue
        key = f"stages.{stage.name}.roles"
        if stage.devices > machine.gpus:
            asked = ", ".join(f"{r.role} {r.actors} x {r.gpus:g}" for r in stage.roles if r.gpus)
            yield (
                key,
                f"asks for {stage.devices} devices ({asked}), but there are {machine.gpus}; ask for fewer, "
                f"share them by fractions, or {remedy}",
            )
        if stage.cpus > machine.cpus + 0.01:
            asked = ", ".join(f"{r.role} {r.actors} x {r.cpus:g}" for r in stage.roles)
            yield (
                key,
                f"asks for {stage.cpus:g} cpus ({asked}), but there are {machine.cpus:g}; leave cpus out to share them",
            )
