"""What can be wrong with a training before anything starts: its roles, batches, guards and sampling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rayalign.algorithms.base import Algorithm, load
from rayalign.config import TrainStage, merged_sampling, nearest
from rayalign.coordinator.iteration import METRICS as ITERATION_METRICS
from rayalign.errors import InputError
from rayalign.models.metrics import MIXTURE, of_roles, renamed
from rayalign.pipeline.beams import beam_problems
from rayalign.pipeline.host_checks import host_problems
from rayalign.pipeline.kind import Problem
from rayalign.pipeline.overlap_checks import overlap_problems
from rayalign.pipeline.reward_checks import reward_problems

OFFLINE_METRICS = frozenset({"eval/loss", "eval/epoch", "heldout/count", "heldout/prompts", "phase/update"})
"""what the offline loop reports by itself"""


def problems(stage: TrainStage, algorithm: Algorithm[Any], models: Mapping[str, str | None]) -> Iterator[Problem]:
    """Every problem of a training; `models` are what its roles start from."""
    yield from _roles(stage, algorithm, models)
    yield from _rows(stage, algorithm, models)
    yield from reward_problems(stage, algorithm)
    yield from _batch(stage, algorithm)
    yield from _renewal(stage, algorithm)
    yield from _sampling(stage, algorithm)
    yield from _mixture(stage)
    yield from _guards(stage, algorithm)
    yield from _priority(stage)
    if stage.deterministic and stage.max_staleness:
        yield (
            "max_staleness",
            f"{stage.max_staleness} overlaps writing with updates, which deterministic: true forbids; take 0",
        )
    yield from overlap_problems(stage, algorithm)


def shared_device_problems(stage: TrainStage, algorithm: Algorithm[Any]) -> Iterator[Problem]:
    """What is wrong with an online training whose engines and roles take turns on the same devices."""
    if "exact_kl" in algorithm.needs:
        yield (
            "algorithm",
            "the exact KL keeps the reference beside the policy, which cannot leave a shared device; set "
            "kl_coefficient to 0, or cluster.share_devices to false",
        )
    elif "reference" in stage.roles and stage.roles["reference"].within:
        yield (
            "roles.reference.within",
            "beside the policy the reference cannot leave a shared device; leave this out, or set "
            "cluster.share_devices to false",
        )
    if stage.max_staleness:
        yield (
            "max_staleness",
            f"{stage.max_staleness} overlaps writing with updates, which cannot share devices; take 0, or set "
            "cluster.share_devices to false",
        )


def _priority(stage: TrainStage) -> Iterator[Problem]:
    if stage.priority and not stage.online:
        yield "priority", "only an online stage draws its prompts as it learns; leave priority out"
    elif stage.priority and not (stage.reward or stage.environment):
        yield "priority", "prompts are weighed by the scores of their candidates; name a reward, or leave priority out"


def _roles(stage: TrainStage, algorithm: Algorithm[Any], models: Mapping[str, str | None]) -> Iterator[Problem]:
    name = stage.algorithm["name"]
    for role, model in models.items():
        if model is None:
            yield role, f"{name} needs a {role} model; name a stage or a folder"
    for role in stage.roles:
        if role not in models:
            yield f"roles.{role}", f"{name} runs no {role}; its roles: {', '.join(models)}"
    # A role that is refused as a whole has no problems in its settings.
    hosts = {role: host for role, host in stage.roles.items() if role in models}
    beside = not stage.online or "exact_kl" in algorithm.needs
    if beside and "reference" in hosts:
        del hosts["reference"]
        which = f"{name}, whose KL is exact," if stage.online else "an offline stage"
        yield "roles.reference", f"{which} runs its reference in the ranks of its learner; leave this out"
    if "exact_kl" in algorithm.needs and stage.learner.zero_stage == 3:
        yield (
            "learner.zero_stage",
            "the exact KL needs reference and policy whole in one process, which stage 3 splits; take 2, or "
            "kl_coefficient 0",
        )
    yield from host_problems(
        hosts, runs=list(hosts), trained=algorithm.trains, sources=stage.rewards, online=stage.online
    )


def _rows(stage: TrainStage, algorithm: Algorithm[Any], models: Mapping[str, str | None]) -> Iterator[Problem]:
    """The algorithm finds all that it needs in what it trains on."""
    name = stage.algorithm["name"]
    if stage.online and stage.examples:
        yield "examples", "an online stage takes its prompts from data; leave examples or the candidates out"
    if stage.online and "scores" in algorithm.needs and not ("reward" in models or stage.environment):
        yield "reward", f"{name} needs scores of what the policy writes; name a reward model"
    single = algorithm.unit == "sequence" and "scores" not in algorithm.needs
    if stage.answers and (stage.online or not single):
        yield "answers", f"only an offline algorithm of single answers, such as sft, takes them; {name} needs none"
    if stage.environment and not stage.online:
        yield "environment", "only what the live policy writes has an environment; add candidates or leave it out"
    count = stage.candidates_per_prompt
    if stage.online and count < algorithm.fewest_candidates:
        yield (
            "candidates",
            f"{name} compares the answers to a prompt; write {algorithm.fewest_candidates} or more of them",
        )
    if stage.online and "preferences" in algorithm.needs:
        yield "candidates", f"{name} learns from pairs that were compared before; leave candidates out"
    if stage.online and "desirability" in algorithm.needs:
        yield "candidates", f"{name} learns from answers that were judged before; leave candidates out"
    if not stage.online and (algorithm.learns_online_only or algorithm.reward_tokens):
        yield "candidates", f"{name} trains on what the policy writes; add [{{source: live, count: 1}}]"


def _batch(stage: TrainStage, algorithm: Algorithm[Any]) -> Iterator[Problem]:
    """Whole optimizer steps of whole units on every rank."""
    count = stage.candidates_per_prompt
    unit = {"sequence": 1, "pair": 2, "group": count or 1}[algorithm.unit]
    # how many candidates a data set has for each prompt is known only later
    count_known = stage.online and all(c.source != "dataset" for c in stage.candidate_sources)
    for role in algorithm.trains:
        key, minibatch = "learner.minibatch", stage.learner.minibatch
        if role == "critic" and stage.critic_learner is not None:
            key, minibatch = "critic_learner.minibatch", stage.critic_learner.minibatch
        ranks = stage.roles[role].actors if role in stage.roles else 1
        step = unit * ranks
        if minibatch % step:
            split = f"{ranks} ranks x {unit} samples that stay together = {step}"
            near = _near(minibatch, step)
            yield key, f"indivisible batch: {minibatch} is not a multiple of {split}; take {near}"
        elif count_known and stage.prompts * count % minibatch:
            yield key, _indivisible(stage.prompts, count, minibatch, step)


def _renewal(stage: TrainStage, algorithm: Algorithm[Any]) -> Iterator[Problem]:
    """The engines get new weights after each iteration, so one has as many optimizer steps as the setting names."""
    steps, minibatch, count = stage.renewal_steps, stage.learner.minibatch, stage.candidates_per_prompt
    if steps is None:
        return
    if algorithm.passes > 1:
        yield "algorithm", f"{stage.candidates} counts the steps of one pass over the answers; take epochs: 1"
    elif minibatch % count == 0 and stage.prompts * count != steps * minibatch:
        yield (
            "prompts",
            f"{stage.prompts} prompts x {count} candidates / minibatch {minibatch} are "
            f"{stage.prompts * count / minibatch:.4g} optimizer steps between two sets of weights; {stage.candidates} "
            f"has {steps}: take {steps * minibatch // count} prompts",
        )


def _indivisible(prompts: int, count: int, minibatch: int, step: int) -> str:
    samples = prompts * count
    fitting = [size for size in range(step, samples + 1, step) if samples % size == 0]
    closest = min(fitting, key=lambda size: abs(size - minibatch), default=None)
    first = f"minibatch {closest}, or " if closest else ""
    return (
        f"indivisible batch: {prompts} prompts x {count} candidates = {samples} samples, "
        f"which is {samples / minibatch:.2f} minibatches of {minibatch}; take {first}"
        f"prompts {_near(prompts, minibatch // math.gcd(minibatch, count))}"
    )


def _near(value: int, step: int) -> str:
    """The multiples of a step beside a value."""
    below = value // step * step
    above = below + step
    return f"{below} or {above}" if below else f"{above}"


def _sampling(stage: TrainStage, algorithm: Algorithm[Any]) -> Iterator[Problem]:
    """Methods that weigh tokens by their probability need that of the distribution that was sampled from."""
    if not stage.online:
        return
    for number, source in enumerate(stage.candidate_sources):
        key = f"candidates.{number}.sampling" if source.sampling else "sampling"
        sampling = merged_sampling(stage.sampling, source.sampling)
        if source.source != "live":
            if source.sampling:
                yield key, "the data set's answers are not drawn; leave sampling out"
            continue
        yield from beam_problems(source.count, sampling, key)
        cut = sampling.top_p < 1.0 or sampling.top_k > 0 or sampling.temperature == 0 or sampling.beams is not None
        differs = sampling.temperature != stage.sampling.temperature
        if "behaviour_logprobs" in algorithm.needs and (cut or differs):
            yield (
                key,
                "training needs the log-probs of the distribution that was sampled from, which cut tails and searches "
                "do not have; take top_p 1, top_k 0, one temperature above 0 and no beams",
            )


def _mixture(stage: TrainStage) -> Iterator[Problem]:
    if stage.mix is None:
        return
    if not stage.online:
        yield "mix", "only an online stage mixes a second objective in; add candidates, or leave it out"
    try:
        algorithm = load(stage.mix.algorithm)
    except InputError as error:
        yield "mix.algorithm", str(error)
        return
    if algorithm.roles != {"policy"} or algorithm.unit != "sequence" or algorithm.needs:
        yield (
            "mix.algorithm",
            f"{stage.mix.algorithm['name']} needs more than the tokens of one answer; take one that does not, like sft",
        )


def _mixture_metrics(stage: TrainStage) -> set[str]:
    if stage.mix is None:
        return set()
    try:
        return set(renamed(MIXTURE, load(stage.mix.algorithm).metrics))
    except InputError:  # a problem of `mix` already
        return set()


def _guards(stage: TrainStage, algorithm: Algorithm[Any]) -> Iterator[Problem]:
    heldout = {f"eval/{name}" for name in algorithm.metrics}
    loop_metrics = ITERATION_METRICS if stage.online else OFFLINE_METRICS | heldout
    parts = {f"reward/{source.label}" for source in stage.rewards} if stage.has_parts else set[str]()
    learners = of_roles(algorithm.trains)
    reported = sorted(algorithm.metrics | learners | loop_metrics | parts | _mixture_metrics(stage))
    for i, guard in enumerate(stage.guards):
        if guard.above is None and guard.below is None:
            yield f"guards.{i}", "a guard needs a limit; give above or below"
        if guard.rate != 1.0 and guard.action != "rollback":
            yield f"guards.{i}.rate", "only a rollback changes the learning rate; set action: rollback, or remove it"
        if guard.metric not in reported:
            yield f"guards.{i}.metric", f"{guard.metric!r} is not a metric; {nearest(guard.metric, reported)}"
