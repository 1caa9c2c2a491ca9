"""The stage that trains with the live policy in the loop: makes the parts, lets the trainer run, keeps the model."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from rayalign.actors.hosted import FrozenSpec
from rayalign.actors.learner import LearnerSpec
from rayalign.actors.preparer import PreparerSpec
from rayalign.algorithms.base import Algorithm, load
from rayalign.cluster.channel import WeightChannel, sites
from rayalign.cluster.pool import GeneratorPool
from rayalign.cluster.roles import PREPARER, Roles, Specs
from rayalign.config import RoleConfig, TrainStage
from rayalign.coordinator.groups import GroupAssembler
from rayalign.coordinator.online import OnlineTrainer, Parts
from rayalign.coordinator.recovery import consumed_iterations
from rayalign.coordinator.rendering import Renderer
from rayalign.coordinator.rollbacks import Rollbacks, read_rollbacks
from rayalign.coordinator.rollouts import RolloutLoop
from rayalign.coordinator.scoring import EnvironmentScoring, ScoringLoop
from rayalign.data.chat import load_tokenizer
from rayalign.data.collate import encode_examples
from rayalign.data.readers import stream_examples
from rayalign.data.reward_tokens import reward_token_ids
from rayalign.data.rows import write_rows
from rayalign.errors import InputError
from rayalign.evaluation.curves import gold_by_iteration
from rayalign.models.inspection import FOLDER as INSPECTION
from rayalign.models.mixture import MixtureSpec
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.generate import sample_reward
from rayalign.pipeline.prompt_order import prompt_order
from rayalign.pipeline.restarting import resume, with_restarts
from rayalign.pipeline.saved_roles import save_roles
from rayalign.pipeline.scoring import resolved
from rayalign.pipeline.time_left import later_stages
from rayalign.pipeline.train import TrainKind
from rayalign.rollout.environment import load_environment
from rayalign.scoring.parts import RewardCombiner
from rayalign.scoring.sources import RewardSpec
from rayalign.storage.checkpoints import CheckpointStore
from rayalign.storage.console import ConsoleSink
from rayalign.storage.journal import Accounting, Journal
from rayalign.storage.metrics import SampleTable, open_sinks, read_metrics
from rayalign.types import Role
from rayalign.weights import probe
from rayalign.weights.paths.base import PathConfig
from rayalign.weights.paths.choice import choose_path

logger = logging.getLogger(__name__)

PROBE_PROMPTS = 16
"""prompts of the data among which the probe's sequences are looked for"""
PATIENCE = 0.05
"""seconds that groups wait for each other where reward and engines share cores: fewer calls leave engines more"""


async def train_online(context: RunContext, name: str, stage: TrainStage) -> dict[str, Any]:
    """Run the online loop to its end and save every trained role; after the loss of a learner, or
    where a guard sends it back, it starts again from a checkpoint.
    """
    return await with_restarts(context, name, lambda: _train(context, name, stage))


async def _train(context: RunContext, name: str, stage: TrainStage) -> dict[str, Any]:
    job = context.job
    async with open_parts(context, name, stage) as (parts, renderer):
        resumption = resume(stage, parts)
        seed = parts.rollbacks.seed(job.seed)
        trainer = OnlineTrainer(stage, job.tracking, parts, seed=seed, pad_id=renderer.pad_id)
        await trainer.train(resumption, _reported(context.stage_folder(name), resumption.iteration))
        await save_roles(context, name, stage, parts, renderer)
        account = Accounting.of(parts.journal.replay(effective=True))
        samples = sample_reward(_consumed_scores(stage, parts.journal))
    return {
        "sample_reward": samples,
        "gold_by_iteration": gold_by_iteration(context.journal_path(name)),
        "groups_consumed": len(account.consumed),
        "groups_dropped": dict(account.drops),
        "candidates_absent": dict(account.absent),
    }


def _reported(folder: Path, iterations: int) -> list[dict[str, Any]]:
    """The metrics of so many iterations."""
    file = folder / "metrics.jsonl"
    return [row for row in read_metrics(file) if row["step"] < iterations] if file.exists() else []


def _consumed_scores(stage: TrainStage, journal: Journal) -> list[list[float]]:
    """The scores of each group, as it was trained on; absent ones are left out."""
    scores: list[list[float]] = []
    for _, groups in consumed_iterations(journal, _combiner(stage)):
        for group in groups:
            scores.append([score.value for score in group.scores if score.value is not None])
    return scores


def _combiner(stage: TrainStage) -> RewardCombiner | None:
    """Of a reward with parts, without moments yet."""
    return RewardCombiner(stage.rewards, stage.combine or "weighted") if stage.has_parts else None


@asynccontextmanager
async def open_parts(context: RunContext, name: str, stage: TrainStage) -> AsyncIterator[tuple[Parts, Renderer]]:
    """Everything that the trainer works with, running while this is entered; the pool stays for later stages."""
    job, folder = context.job, context.stage_folder(name)
    model = context.model(stage.model)
    renderer = Renderer(model, job.rollout.context, stage.sampling)
    algorithm = load(stage.algorithm)
    rollbacks = Rollbacks(folder, read_rollbacks(folder))
    seed = rollbacks.seed(job.seed)
    specs = _specs(context, name, stage, algorithm, _mixture(context, name, stage), rollbacks)
    reward_tokens = reward_token_ids(renderer.tokenizer)
    preparer = PreparerSpec(stage.algorithm, job.cluster.call_timeout, reward_tokens)
    pool, roles = await _start(context, name, model, specs, preparer)
    async with AsyncExitStack() as closing:
        await closing.enter_async_context(roles)
        context.prepare_next()
        journal = closing.enter_context(contextlib.closing(Journal(context.journal_path(name))))
        samples = closing.enter_context(contextlib.closing(SampleTable(folder / "samples.jsonl")))
        console = ConsoleSink(name, stage.iterations, later=later_stages(job, context.later))
        sink = open_sinks(job.tracking, folder, name, job.model_dump(mode="json"), console)
        closing.callback(sink.close)
        rollouts = RolloutLoop(
            stage,
            seed=seed,
            algorithm=algorithm,
            order=prompt_order(context, name, stage, seed),
            assembler=_assembler(context, stage, pool, renderer),
            scoring=_scoring(context, stage, algorithm, roles),
            rewards=_combiner(stage),
            journal=journal,
            events=context.events,
            timeout=job.cluster.call_timeout,
        )
        parts = Parts(
            algorithm=algorithm,
            roles=roles,
            preparer=roles[PREPARER],
            pool=pool,
            channel=_channel(context, name, stage, renderer, roles, pool),
            turns=context.turns,
            rollouts=rollouts,
            journal=journal,
            checkpoints=CheckpointStore(folder / "checkpoints", stage.keep),
            sink=sink,
            samples=samples,
            events=context.events,
            rollbacks=rollbacks,
        )
        yield parts, renderer


async def _start(
    context: RunContext, name: str, model: str, specs: Specs, preparer: PreparerSpec
) -> tuple[GeneratorPool, Roles]:
    """The engines and the roles; on shared devices one after another, since each must leave room for the next."""

    async def start_roles() -> Roles:
        with context.starting(f"the roles of {name}"):
            return await context.start_roles(name, specs, preparer)

    if context.job.cluster.share_devices:
        pool = await context.engines(model)
        roles = await start_roles()
    else:
        pool, roles = await asyncio.gather(context.engines(model), start_roles())
    context.weights_changed()
    pool.forget()
    return pool, roles


def _assembler(context: RunContext, stage: TrainStage, pool: GeneratorPool, renderer: Renderer) -> GroupAssembler:
    return GroupAssembler(
        pool,
        renderer,
        timeout=context.job.cluster.call_timeout,
        environment=load_environment(stage.environment) if stage.environment else None,
        max_turns=stage.max_turns,
    )


def _scoring(
    context: RunContext, stage: TrainStage, algorithm: Algorithm[Any], roles: Roles
) -> ScoringLoop | EnvironmentScoring | None:
    """By the reward, else by the environment; None where nothing needs scores."""
    if "reward" in roles:
        shares_cores = not context.job.rollout.gpus and not stage.roles.get("reward", RoleConfig()).gpus
        return ScoringLoop(
            roles["reward"],
            redo=stage.redo,
            alone=stage.deterministic,
            events=context.events,
            patience=PATIENCE if shares_cores else 0.0,
        )
    return EnvironmentScoring() if "scores" in algorithm.needs else None


def _mixture(context: RunContext, name: str, stage: TrainStage) -> MixtureSpec | None:
    """The rows of the stage's second objective, written where the policy's ranks read them."""
    mix = stage.mix
    if mix is None:
        return None
    tokenizer = load_tokenizer(context.model(stage.model))
    report = context.inputs.report_left_out
    examples = stream_examples(mix.data, seed=context.job.seed, use="demonstrations", report=report)
    folder = context.stage_folder(name) / "mixture"
    if not write_rows(folder, encode_examples(tokenizer, examples, context=context.job.rollout.context)):
        raise InputError(f"stages.{name}.mix.data: no rows are left; raise rollout.context, or give other data")
    return MixtureSpec(mix.algorithm, str(folder), mix.weight, mix.samples)


def _specs(
    context: RunContext,
    name: str,
    stage: TrainStage,
    algorithm: Algorithm[Any],
    mixture: MixtureSpec | None,
    rollbacks: Rollbacks,
) -> Specs:
    """What each declared role is made from."""
    timeout = context.job.cluster.call_timeout
    policy = context.model(stage.model)
    temperature = stage.sampling.temperature if "behaviour_logprobs" in algorithm.needs else 1.0
    samples = stage.prompts * stage.candidates_per_prompt
    kind = TrainKind(stage)
    models = kind.models()
    beside_policy = models.pop("reference", None) if kind.reference_in_learner else None
    reference = context.model(beside_policy) if beside_policy else None
    specs: dict[Role, LearnerSpec | FrozenSpec | RewardSpec] = {}
    for role in ("policy", "critic", "reference"):
        source = models.get(role)
        if source is None:
            continue
        if role in algorithm.trains:
            config = kind.learner(role)
            steps = stage.iterations * algorithm.passes * -(-samples // config.minibatch)
            specs[role] = LearnerSpec(
                context.model(source),
                rollbacks.slowed(config),
                stage.algorithm,
                temperature,
                steps,
                context.job.seed,
                timeout,
                mixture if role == "policy" else None,
                reference if role == "policy" else None,
                str(context.stage_folder(name) / INSPECTION),
            )
        else:
            specs[role] = FrozenSpec(context.model(source), stage.learner, temperature, policy, timeout)
    if "reward" in models:
        specs["reward"] = _reward_spec(context, stage, policy)
    return specs


def _reward_spec(context: RunContext, stage: TrainStage, policy: str) -> RewardSpec:
    # A service that is away is asked `redo` times more, all within the wait for a whole iteration.
    services = [source for source in stage.rewards if source.form == "annotator"]
    timeout = context.job.cluster.call_timeout / (stage.redo + 2 if services else 1)
    return RewardSpec(resolved(context, stage.rewards), stage.learner, policy, timeout, named=stage.has_parts)


def _channel(
    context: RunContext, name: str, stage: TrainStage, renderer: Renderer, roles: Roles, pool: GeneratorPool
) -> WeightChannel:
    rollout = context.job.rollout
    examples = context.inputs.fitting(name, stage.model)[:PROBE_PROMPTS]
    encoded = [renderer.prompt_ids(example.prompt) for example in examples]
    tokens = probe.data_tokens(encoded) or probe.tokens_of(renderer.tokenizer)
    trainer, engines = sites(roles["policy"]), sites(pool.group)
    path, reason = choose_path(rollout.weights, trainer, engines, vllm=pool.engine == "vllm")
    adapter = stage.learner.lora if pool.adapter is not None else None
    if adapter is not None and path in ("nccl", "ipc"):
        path, reason = "store", "an adapter is small, and vLLM's own transfer carries whole models only"
    context.choices.log("weights travel by", path, reason)
    return WeightChannel(
        tokens,
        bound=probe.Bound(stage.learner.precision, rollout.dtype),
        path=PathConfig(
            name=path,
            timeout=context.job.cluster.transfer_timeout,
            folder=str(context.folder / "weights"),
            tensor_parallel=rollout.tensor_parallel,
        ),
        events=context.events,
        adapter=adapter,
        turns=context.turns,
        restarts=stage.overlapping.in_flight == "restart",
    )
