"""What an online stage leaves: the model folder of each role that it trained."""

from __future__ import annotations

import shutil
from pathlib import Path

from rayalign.cluster.group import ActorGroup
from rayalign.config import TrainStage
from rayalign.coordinator.online import Parts
from rayalign.coordinator.rendering import Renderer
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.train import TrainKind
from rayalign.weights import probe


async def save_roles(context: RunContext, name: str, stage: TrainStage, parts: Parts, renderer: Renderer) -> None:
    """The model folder of each trained role, whole or not at all; the policy's with its probe."""
    tokenizer = context.model(stage.model)
    kind = TrainKind(stage)
    await parts.turns.enter("training")
    for role in kind.trained:
        target = context.stage_folder(name) / kind.outputs()[role].path
        temporary = target.with_name(f".{target.name}.tmp")
        await _write(parts.roles[role], temporary, tokenizer)
        if role == "policy":
            await _save_probe(parts, stage, renderer, temporary)
        shutil.rmtree(target, ignore_errors=True)  # a kill may have come between this and done.json
        temporary.rename(target)


async def _write(role: ActorGroup, folder: Path, tokenizer: str) -> None:
    await role.all(lambda actor: actor.save.remote(str(folder), tokenizer))


async def _save_probe(parts: Parts, stage: TrainStage, renderer: Renderer, folder: Path) -> None:
    tokens = probe.tokens_of(renderer.tokenizer)
    answers = await parts.roles["policy"].all(lambda actor: actor.probe.remote(tokens))
    logprobs = tuple(tuple(row) for row in answers[0])
    proof = probe.Probe(stage.iterations, tokens, logprobs, probe.tolerance(stage.learner.precision))
    probe.save(proof, folder)
